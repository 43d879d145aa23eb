// What is done to the colours and the sharpness of rows of pixels in [0, 255]; included once for
// each instruction set, no guard, on purpose. The formulas are those of ssgear/kernels/augment/colour.py.

namespace ssgear {
namespace SSGEAR_LEVEL {

constexpr float LUMA_RED = 0.2989f, LUMA_GREEN = 0.587f, LUMA_BLUE = 0.114f;
constexpr double NEGLIGIBLE = 1e-9;  // share of the blur's middle weight

SSGEAR_TARGET inline float luma(float red, float green, float blue) {
  return (red * LUMA_RED + green * LUMA_GREEN) + blue * LUMA_BLUE;
}

SSGEAR_TARGET inline float smaller(float a, float b) {
  return a < b ? a : b;
}

SSGEAR_TARGET inline float larger(float a, float b) {
  return a > b ? a : b;
}

SSGEAR_TARGET inline float size_of(float a) {
  return a < 0 ? -a : a;
}

// x = factor x + added, in [0, 255].
SSGEAR_TARGET void scale_row(float* const* row, int64_t n, float factor, float added) {
  for (int channel = 0; channel < 3; ++channel) {
    float* __restrict pixels = row[channel];
    for (int64_t x = 0; x < n; ++x) {
      pixels[x] = bounded(pixels[x] * factor + added, 0, 255);
    }
  }
}

SSGEAR_TARGET void saturate_row(float* const* row, int64_t n, float factor) {
  float *__restrict red = row[0], *__restrict green = row[1], *__restrict blue = row[2];
  const float rest = 1 - factor;
  for (int64_t x = 0; x < n; ++x) {
    const float grey = luma(red[x], green[x], blue[x]) * rest;
    red[x] = bounded(red[x] * factor + grey, 0, 255);
    green[x] = bounded(green[x] * factor + grey, 0, 255);
    blue[x] = bounded(blue[x] * factor + grey, 0, 255);
  }
}

// A channel of value v and chroma c whose hue lies d sextants from the pixel's is
// v - c clamp(d - 1, 0, 1). Hue and distance are kept times the chroma: nothing is divided.
SSGEAR_TARGET inline float turned_channel(float value, float chroma, float hue, float centre) {
  const float away = size_of(hue - centre * chroma), distance = smaller(away, size_of(6 * chroma - away));
  return value - bounded(distance - chroma, 0, chroma);
}

// Turns the hue by `turn` of the circle, in [-0.5, 0.5].
SSGEAR_TARGET void turn_hue_row(float* const* row, int64_t n, float turn) {
  float *__restrict red = row[0], *__restrict green = row[1], *__restrict blue = row[2];
  for (int64_t x = 0; x < n; ++x) {
    const float r = red[x], g = green[x], b = blue[x];
    const float value = larger(larger(r, g), b), chroma = value - smaller(smaller(r, g), b);
    const float at_green = 2 * chroma + (b - r), at_blue = 4 * chroma + (r - g);
    const float at_red = g - b, hue_now = r == value ? at_red : g == value ? at_green : at_blue;
    const float hue = hue_now + 6 * turn * chroma;
    red[x] = turned_channel(value, chroma, hue, 0);
    green[x] = turned_channel(value, chroma, hue, 2);
    blue[x] = turned_channel(value, chroma, hue, 4);
  }
}

SSGEAR_TARGET void grey_row(float* const* row, int64_t n) {
  float *__restrict red = row[0], *__restrict green = row[1], *__restrict blue = row[2];
  for (int64_t x = 0; x < n; ++x) {
    red[x] = green[x] = blue[x] = luma(red[x], green[x], blue[x]);
  }
}

// Adds the luma of a row to sums over its columns of the same number modulo LANES.
SSGEAR_TARGET void add_luma(float* const* row, int64_t n, float* __restrict sums) {
  int64_t x = 0;
  for (; x + LANES <= n; x += LANES) {
    for (int64_t lane = 0; lane < LANES; ++lane) {
      sums[lane] += luma(row[0][x + lane], row[1][x + lane], row[2][x + lane]);
    }
  }
  for (; x < n; ++x) {
    sums[x % LANES] += luma(row[0][x], row[1][x], row[2][x]);
  }
}

// Fills `weights` from the middle outwards and returns how many to either side matter: the others'
// share is below a rounding.
SSGEAR_TARGET int64_t blur_weights(float sigma, int64_t radius, float* weights) {
  double total = 0;
  int64_t reach = 0;
  for (int64_t offset = 0; offset <= radius; ++offset) {
    const double distance = static_cast<double>(offset) / sigma;
    const double weight = std::exp(-0.5 * distance * distance);
    total += offset == 0 ? weight : 2 * weight;
    reach = weight > NEGLIGIBLE ? offset : reach;
    weights[offset] = static_cast<float>(weight);
  }
  for (int64_t offset = 0; offset <= radius; ++offset) {
    weights[offset] = static_cast<float>(weights[offset] / total);
  }
  return reach;
}

// Blurs a row of `width` pixels in place, reflecting at its ends; `edged` has room for the row and
// `reach` pixels at both ends.
SSGEAR_TARGET void blur_across(
    float* row, int64_t width, const float* weights, int64_t reach, float* edged) {
  float* middle = edged + reach;
  std::memcpy(middle, row, width * sizeof(float));
  for (int64_t x = 1; x <= reach; ++x) {
    middle[-x] = row[x];
    middle[width - 1 + x] = row[width - 1 - x];
  }
  for (int64_t x = 0; x < padded_row(width); x += PACK) {
    Floats sum = load(middle + x) * weights[0];
    for (int64_t k = 1; k <= reach; ++k) {
      sum += (load(middle + x - k) + load(middle + x + k)) * weights[k];
    }
    store(row + x, sum);
  }
}

// Blurs downwards: row y of a plane of `height` rows, `stride` apart, into `out`.
SSGEAR_TARGET void blur_down(
    const float* plane, int64_t y, int64_t height, int64_t stride, const float* weights,
    int64_t reach, float* out) {
  for (int64_t x = 0; x < stride; x += PACK) {
    Floats sum = load(plane + y * stride + x) * weights[0];
    for (int64_t k = 1; k <= reach; ++k) {
      const int64_t above = y < k ? k - y : y - k;
      const int64_t below = y + k < height ? y + k : 2 * (height - 1) - y - k;
      sum += (load(plane + above * stride + x) + load(plane + below * stride + x)) * weights[k];
    }
    store(out + x, sum);
  }
}

SSGEAR_TARGET void solarise_row(float* const* row, int64_t n, float threshold) {
  for (int channel = 0; channel < 3; ++channel) {
    float* __restrict pixels = row[channel];
    for (int64_t x = 0; x < n; ++x) {
      pixels[x] = pixels[x] >= threshold ? 255 - pixels[x] : pixels[x];
    }
  }
}

}  // namespace SSGEAR_LEVEL
}  // namespace ssgear
