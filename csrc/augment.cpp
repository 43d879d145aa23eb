// The fused augmentation (ssgear/kernels/augment/views.py) for CPUs: crop and resize, flip, colour, blur,
// solarise, normalise, for one image after the other, so that all between image and view stays in
// the cache. Images are shared out among threads; a view is a function of its image and its numbers
// alone.

#include "augment.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <string_view>

namespace ssgear {
namespace {

using at::Tensor;

constexpr int64_t PIXELS_A_THREAD = 8192;  // less is not worth waking a thread for

Number number_of(at::ScalarType type) {
  switch (type) {
    case at::kByte:
      return Number::uint8;
    case at::kFloat:
      return Number::float32;
    default:
      TORCH_CHECK(type == at::kBFloat16, "augment: cannot work on ", type);
      return Number::bfloat16;
  }
}

AugmentSettings make_settings(
    const Tensor& images, const Tensor& views, bool resize, std::string_view interpolation,
    bool antialias, int64_t blur_radius, double threshold, at::ArrayRef<double> mean,
    at::ArrayRef<double> std) {
  AugmentSettings settings{};
  settings.height = views.size(2), settings.width = views.size(3);
  settings.resize = resize;
  settings.bicubic = interpolation == "bicubic";
  settings.antialias = antialias;
  settings.blur_radius = blur_radius;
  settings.threshold = static_cast<float>(255 * threshold);
  const bool normalised = views.scalar_type() != at::kByte;
  for (int channel = 0; channel < 3; ++channel) {
    settings.mean[channel] = normalised ? static_cast<float>(mean[channel]) * 255.0f : 0.0f;
    settings.scale[channel] =
        normalised ? 1.0f / (static_cast<float>(std[channel]) * 255.0f) : 1.0f;
  }
  const auto type = images.scalar_type();
  TORCH_CHECK(type == at::kByte || (type == at::kFloat && !resize), "augment: cannot resize ", type);
  TORCH_CHECK(blur_radius < std::min(settings.height, settings.width), "augment: blur too wide");
  return settings;
}

bool is_whole(float number) {
  return std::floor(number) == number;
}

// Whether a box is whole pixels inside the image.
bool is_inside(const float* view, int64_t height, int64_t width) {
  return is_whole(view[TOP]) && is_whole(view[LEFT]) && is_whole(view[HEIGHT]) &&
      is_whole(view[WIDTH]) && view[TOP] >= 0 && view[LEFT] >= 0 && view[HEIGHT] >= 1 &&
      view[WIDTH] >= 1 && view[TOP] + view[HEIGHT] <= static_cast<float>(height) &&
      view[LEFT] + view[WIDTH] <= static_cast<float>(width);
}

// Whether every operation of the jitter is named once.
bool is_order(const float* order) {
  unsigned named = 0;
  for (int place = 0; place < OPERATIONS; ++place) {
    const bool known = order[place] >= 0 && order[place] < OPERATIONS && is_whole(order[place]);
    named |= known ? 1u << static_cast<unsigned>(order[place]) : 0u;
  }
  return named == (1u << OPERATIONS) - 1;
}

// What check_values of augment/params.py asks, which says it better.
void check(const Tensor& images, const Tensor& params, const Tensor& views, bool resize) {
  TORCH_CHECK(
      params.scalar_type() == at::kFloat && params.is_contiguous() && params.dim() == 2 &&
          params.size(0) == images.size(0) && params.size(1) == COLUMNS,
      "augment: parameters must be float32 [N, ", COLUMNS, "]");
  const int64_t height = images.size(2), width = images.size(3);
  TORCH_CHECK(
      views.size(0) == images.size(0) && views.size(1) == 3 && images.size(1) == 3 &&
          (resize || (height == views.size(2) && width == views.size(3))),
      "augment: views and images do not fit together");
  const float* view = params.const_data_ptr<float>();
  for (int64_t row = 0; row < params.size(0); ++row, view += COLUMNS) {
    TORCH_CHECK(!resize || is_inside(view, height, width), "augment: box ", row, " is not inside");
    TORCH_CHECK(is_order(view + ORDER), "augment: the order of view ", row, " is not one");
  }
}

// Fills `views` [N, 3, h, w], channels first or last.
void augment(
    const Tensor& images, const Tensor& params, bool resize, std::string_view interpolation,
    bool antialias, int64_t blur_radius, double threshold, at::ArrayRef<double> mean,
    at::ArrayRef<double> std, const Tensor& views) {
  check(images, params, views, resize);
  const AugmentSettings settings = make_settings(
      images, views, resize, interpolation, antialias, blur_radius, threshold, mean, std);
  const bool channels_last = !views.is_contiguous();
  TORCH_CHECK(!channels_last || views.is_contiguous(at::MemoryFormat::ChannelsLast));
  static const ViewMaker make_view = view_maker_for(at::get_cpu_capability().c_str());
  const Number from = number_of(images.scalar_type()), to = number_of(views.scalar_type());
  const char* pixels = static_cast<const char*>(images.const_data_ptr());
  char* made = static_cast<char*>(views.mutable_data_ptr());
  const float* numbers = params.const_data_ptr<float>();
  const int64_t image_bytes = images.stride(0) * static_cast<int64_t>(images.element_size());
  const int64_t area = settings.height * settings.width;
  const int64_t view_bytes = 3 * area * static_cast<int64_t>(views.element_size());
  const int64_t grain = std::max<int64_t>(1, PIXELS_A_THREAD / std::max<int64_t>(area, 1));
  at::parallel_for(0, images.size(0), grain, [&](int64_t begin, int64_t end) {
    Workspace workspace;
    for (int64_t row = begin; row < end; ++row) {
      const ImageIn image = {
          pixels + row * image_bytes, from, images.stride(1), images.stride(2), images.stride(3)};
      const ViewOut view = {made + row * view_bytes, to, channels_last};
      make_view(image, numbers + row * COLUMNS, settings, view, workspace);
    }
  });
}

}  // namespace
}  // namespace ssgear

TORCH_LIBRARY_FRAGMENT(ssgear_native, library) {
  library.def(
      "augment(Tensor images, Tensor params, bool resize, str interpolation, bool antialias, "
      "int blur_radius, float threshold, float[] mean, float[] std, Tensor(a!) views) -> ()");
}

TORCH_LIBRARY_IMPL(ssgear_native, CPU, library) {
  library.impl("augment", ssgear::augment);
}
