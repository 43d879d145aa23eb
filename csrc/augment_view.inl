// One view from its image to its place in the batch, row by row; included once for each instruction
// set (levels.inl), no guard, on purpose, and with it what it is made of.

#include "augment_resize.inl"
#include "augment_colour.inl"

namespace ssgear {
namespace SSGEAR_LEVEL {

// The jitter's operations that change something, in their order, cut where the contrast needs the
// mean of the whole image.
struct Steps {
  int before = 0, count = 0;  // all from `before` on come after the contrast's mean is known
  int operation[OPERATIONS];
  float factor[OPERATIONS];
  bool needs_mean = false;
};

SSGEAR_TARGET Steps make_steps(const float* view) {
  Steps steps;
  for (int place = 0; place < OPERATIONS; ++place) {
    const int operation = static_cast<int>(view[ORDER + place]);
    float factor = view[JITTER + operation];
    if (factor == (operation == HUE ? 0.0f : 1.0f)) {
      continue;
    }
    if (operation == HUE) {
      factor -= std::floor(factor + 0.5f);
    }
    if (operation == CONTRAST) {
      steps.needs_mean = true;
      steps.before = steps.count;
    }
    steps.operation[steps.count] = operation;
    steps.factor[steps.count++] = factor;
  }
  if (!steps.needs_mean) {
    steps.before = steps.count;
  }
  return steps;
}

SSGEAR_TARGET void change_row(
    float* const* row, int64_t n, const Steps& steps, int begin, int end, float mean) {
  for (int place = begin; place < end; ++place) {
    const float factor = steps.factor[place];
    switch (steps.operation[place]) {
      case BRIGHTNESS:
        scale_row(row, n, factor, 0);
        break;
      case CONTRAST:
        scale_row(row, n, factor, mean * (1 - factor));
        break;
      case SATURATION:
        saturate_row(row, n, factor);
        break;
      default:
        turn_hue_row(row, n, factor);
    }
  }
}

// Row y of a crop that needs no resizing.
template <typename T>
SSGEAR_TARGET void copied_row(
    const ImageIn& image, int64_t y, int64_t width, bool flip, float* const* row) {
  for (int64_t channel = 0; channel < 3; ++channel) {
    const T* line = static_cast<const T*>(image.pixels) + channel * image.channel + y * image.row;
    float* __restrict out = row[channel];
    if (image.column == 1 && !flip) {
      for (int64_t x = 0; x < width; ++x) {
        out[x] = static_cast<float>(line[x]);
      }
    } else {
      for (int64_t x = 0; x < width; ++x) {
        out[x] = static_cast<float>(line[(flip ? width - 1 - x : x) * image.column]);
      }
    }
  }
}

SSGEAR_TARGET inline void write(float x, float& to) {
  to = x;
}

SSGEAR_TARGET inline void write(float x, uint8_t& to) {
  to = static_cast<uint8_t>(static_cast<int32_t>(bounded(x, 0, 255) + 0.5f));
}

SSGEAR_TARGET inline void write(float x, uint16_t& to) {  // bfloat16, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  to = static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded);
}

// Numbers of type T at their place in a view; bytes are not normalised.
template <typename T>
SSGEAR_TARGET void write_row(
    float* const* row, int64_t y, const AugmentSettings& settings, const ViewOut& out) {
  const int64_t width = settings.width, step = out.channels_last ? 3 : 1;
  for (int64_t channel = 0; channel < 3; ++channel) {
    const float* pixels = row[channel];
    const float mean = settings.mean[channel], scale = settings.scale[channel];
    const int64_t plane = out.channels_last ? channel : channel * settings.height * width;
    T* __restrict to = static_cast<T*>(out.pixels) + plane + y * width * step;
    if (step == 1) {
      for (int64_t x = 0; x < width; ++x) {
        write((pixels[x] - mean) * scale, to[x]);
      }
    } else {
      for (int64_t x = 0; x < width; ++x) {
        write((pixels[x] - mean) * scale, to[3 * x]);
      }
    }
  }
}

SSGEAR_TARGET void finish_row(
    float* const* row, int64_t y, bool solarise, const AugmentSettings& settings, const ViewOut& out) {
  if (solarise) {
    solarise_row(row, settings.width, settings.threshold);
  }
  switch (out.type) {
    case Number::float32:
      return write_row<float>(row, y, settings, out);
    case Number::bfloat16:
      return write_row<uint16_t>(row, y, settings, out);
    case Number::uint8:
      return write_row<uint8_t>(row, y, settings, out);
  }
}

struct View {
  const ImageIn& image;
  const float* numbers;
  const AugmentSettings& settings;
  const ViewOut& out;
  Steps steps;
  Resizer resizer;
  int64_t stride, reach;  // numbers from row to row; pixels that the blur reaches, 0 for no blur
  float *planes, *line, *edged, *blur;
};

SSGEAR_TARGET View start_view(
    const ImageIn& image, const float* numbers, const AugmentSettings& settings, const ViewOut& out,
    Workspace& workspace) {
  View view{image, numbers, settings, out, make_steps(numbers), {}, padded_row(settings.width)};
  view.planes = workspace.floats(Workspace::PLANES, 3 * settings.height * view.stride);
  view.line = workspace.floats(Workspace::LINE, 3 * view.stride);
  view.edged = workspace.floats(Workspace::EDGED, view.stride + 2 * settings.blur_radius);
  view.blur = workspace.floats(Workspace::BLUR_WEIGHTS, settings.blur_radius + 1);
  if (numbers[BLUR] > 0) {
    view.reach = blur_weights(numbers[BLUR], settings.blur_radius, view.blur);
  }
  if (settings.resize) {
    view.resizer = make_resizer(image, numbers, settings, workspace);
  }
  return view;
}

SSGEAR_TARGET void crop_row(View& view, int64_t y, float* const* row) {
  const bool flip = view.numbers[FLIP] != 0;
  if (view.settings.resize) {
    resized_row(view.resizer, y, row);
  } else if (view.image.type == Number::uint8) {
    copied_row<uint8_t>(view.image, y, view.settings.width, flip, row);
  } else {
    copied_row<float>(view.image, y, view.settings.width, flip, row);
  }
}

// What follows the jitter; the blur is half done, as it needs rows further down.
SSGEAR_TARGET void deliver_row(const View& view, int64_t y, float* const* row) {
  if (view.numbers[GREY] != 0) {
    grey_row(row, view.stride);
  }
  if (view.reach == 0) {
    finish_row(row, y, view.numbers[SOLARISE] != 0, view.settings, view.out);
    return;
  }
  for (int64_t channel = 0; channel < 3; ++channel) {
    blur_across(row[channel], view.settings.width, view.blur, view.reach, view.edged);
  }
}

SSGEAR_TARGET void deliver_blurred(const View& view) {
  const int64_t height = view.settings.height, stride = view.stride;
  float* const row[3] = {view.line, view.line + stride, view.line + 2 * stride};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t channel = 0; channel < 3; ++channel) {
      const float* plane = view.planes + channel * height * stride;
      blur_down(plane, y, height, stride, view.blur, view.reach, row[channel]);
    }
    finish_row(row, y, view.numbers[SOLARISE] != 0, view.settings, view.out);
  }
}

SSGEAR_TARGET void make_view(
    const ImageIn& image, const float* numbers, const AugmentSettings& settings, const ViewOut& out,
    Workspace& workspace) {
  View view = start_view(image, numbers, settings, out, workspace);
  const Steps& steps = view.steps;
  const int64_t height = settings.height, plane = height * view.stride;
  double luma = 0;
  for (int64_t y = 0; y < height; ++y) {
    float* first = view.planes + y * view.stride;
    float* const row[3] = {first, first + plane, first + 2 * plane};
    crop_row(view, y, row);
    change_row(row, view.stride, steps, 0, steps.before, 0);
    if (steps.needs_mean) {
      float sums[LANES] = {};  // of a row only: long sums in float32 lose digits
      add_luma(row, settings.width, sums);
      for (const float sum : sums) {
        luma += sum;
      }
    } else {
      deliver_row(view, y, row);
    }
  }
  const float mean = static_cast<float>(luma / static_cast<double>(height * settings.width));
  for (int64_t y = 0; y < height && steps.needs_mean; ++y) {
    float* first = view.planes + y * view.stride;
    float* const row[3] = {first, first + plane, first + 2 * plane};
    change_row(row, view.stride, steps, steps.before, steps.count, mean);
    deliver_row(view, y, row);
  }
  if (view.reach > 0) {
    deliver_blurred(view);
  }
}

}  // namespace SSGEAR_LEVEL
}  // namespace ssgear
