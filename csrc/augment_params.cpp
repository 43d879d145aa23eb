// The random numbers of views (ssgear/data/augment/views.py), drawn and packed in one pass: what the
// tensor arithmetic there does in seventy operations, by the same steps in the same types.
//
// Products are rounded before they are added, as there.

#include "augment.h"
#include "philox.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>

#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("O3", "fp-contract=off")
#endif

namespace ssgear {
namespace {

using at::Tensor;

constexpr int TRIES = 10;  // boxes before the central crop is taken
constexpr int DRAWS = 16 + 2 * TRIES;
constexpr int64_t VIEWS_A_THREAD = 512;  // less is not worth waking a thread for

// Where a specification's numbers stand (AugmentSpec.numbers); the crop's are absent for none.
enum Entry {
  P_FLIP,
  P_JITTER,
  P_GREY,
  P_BLUR,
  P_SOLARISE,
  STRENGTHS,
  SIGMA = STRENGTHS + OPERATIONS,
  SIGMA_RANGE,
  NUMBERS_WITHOUT_CROP,
  AREA = NUMBERS_WITHOUT_CROP,
  AREA_RANGE,
  NARROW,
  WIDE,
  LOG_NARROW,
  LOG_RANGE,
  NUMBERS
};

struct Box {
  double height, width;
};

bool fits(const Box& box, double height, double width) {
  return box.height > 0 && box.height <= height && box.width > 0 && box.width <= width;
}

// Chooses a crop as torchvision's RandomResizedCrop does; std::nearbyint rounds halves to even.
void draw_box(const double* spec, const float* draws, double height, double width, float* view) {
  const double narrow = spec[NARROW], wide = spec[WIDE];
  Box chosen{};
  bool found = false;
  for (int attempt = 0; attempt < TRIES && !found; ++attempt) {
    const double share = spec[AREA] + spec[AREA_RANGE] * static_cast<double>(draws[16 + attempt]);
    const double area = share * (height * width);
    const double turned = static_cast<double>(draws[16 + TRIES + attempt]);
    const double ratio = std::exp(spec[LOG_NARROW] + spec[LOG_RANGE] * turned);
    chosen = {std::nearbyint(std::sqrt(area / ratio)), std::nearbyint(std::sqrt(area * ratio))};
    found = fits(chosen, height, width);
  }
  double top, left;
  if (found) {
    top = std::floor(static_cast<double>(draws[14]) * (height - chosen.height + 1));
    left = std::floor(static_cast<double>(draws[15]) * (width - chosen.width + 1));
  } else {
    chosen.height = std::max(std::min(height, std::nearbyint(width / narrow)), 1.0);
    chosen.width = std::max(std::min(width, std::nearbyint(height * wide)), 1.0);
    top = std::floor((height - chosen.height) / 2);
    left = std::floor((width - chosen.width) / 2);
  }
  view[TOP] = static_cast<float>(top), view[LEFT] = static_cast<float>(left);
  view[HEIGHT] = static_cast<float>(chosen.height), view[WIDTH] = static_cast<float>(chosen.width);
}

void draw_jitter(const double* spec, const float* draws, float* view) {
  const bool jittered = draws[1] < static_cast<float>(spec[P_JITTER]);
  for (int operation = 0; operation < OPERATIONS; ++operation) {
    const float neutral = operation == HUE ? 0.0f : 1.0f;
    const float strength = static_cast<float>(spec[STRENGTHS + operation]);
    const float low = operation == HUE ? -strength : std::max(neutral - strength, 0.0f);
    const float range = (neutral + strength) - low;
    view[JITTER + operation] = jittered ? low + range * draws[5 + operation] : neutral;
  }
  int order[OPERATIONS] = {0, 1, 2, 3};
  std::stable_sort(order, order + OPERATIONS, [&](int a, int b) {
    return draws[10 + a] < draws[10 + b];
  });
  std::copy(order, order + OPERATIONS, view + ORDER);
}

void draw_view(
    const double* spec, bool crops, const float* draws, double height, double width, float* view) {
  if (crops) {
    draw_box(spec, draws, height, width, view);
  } else {
    view[TOP] = view[LEFT] = 0;
    view[HEIGHT] = static_cast<float>(height), view[WIDTH] = static_cast<float>(width);
  }
  view[FLIP] = draws[0] < static_cast<float>(spec[P_FLIP]);
  draw_jitter(spec, draws, view);
  view[GREY] = draws[2] < static_cast<float>(spec[P_GREY]);
  const float spread = static_cast<float>(spec[SIGMA_RANGE]) * draws[9];
  const bool blurred = draws[3] < static_cast<float>(spec[P_BLUR]);
  view[BLUR] = blurred ? static_cast<float>(spec[SIGMA]) + spread : 0.0f;
  view[SOLARISE] = draws[4] < static_cast<float>(spec[P_SOLARISE]);
}

// Row i is the view of the image at indices[i], of heights[i] x widths[i] pixels.
Tensor augment_params(
    int64_t key, const Tensor& indices, const Tensor& heights, const Tensor& widths,
    at::ArrayRef<double> spec) {
  const int64_t count = indices.size(0);
  const bool crops = spec.size() == NUMBERS;
  TORCH_CHECK(crops || spec.size() == NUMBERS_WITHOUT_CROP, "augment_params: no specification");
  TORCH_CHECK(
      heights.sizes() == indices.sizes() && widths.sizes() == indices.sizes(),
      "augment_params: one height and width for each index");
  const Tensor dense = indices.contiguous();
  const Tensor tall = heights.to(at::kDouble).contiguous(), broad = widths.to(at::kDouble).contiguous();
  Tensor params = at::empty({count, COLUMNS}, indices.options().dtype(at::kFloat));
  const int64_t* index = dense.const_data_ptr<int64_t>();
  const double *height = tall.const_data_ptr<double>(), *width = broad.const_data_ptr<double>();
  float* out = params.mutable_data_ptr<float>();
  at::parallel_for(0, count, VIEWS_A_THREAD, [&](int64_t begin, int64_t end) {
    float draws[DRAWS];
    for (int64_t row = begin; row < end; ++row) {
      for (int first = 0; first < DRAWS; first += 4) {
        uint32_t words[4];
        philox(
            static_cast<uint64_t>(key), static_cast<uint64_t>(index[row]),
            static_cast<uint32_t>(first / 4), words);
        std::transform(words, words + 4, draws + first, uniform);
      }
      draw_view(spec.data(), crops, draws, height[row], width[row], out + row * COLUMNS);
    }
  });
  return params;
}

}  // namespace
}  // namespace ssgear

TORCH_LIBRARY_FRAGMENT(ssgear_native, library) {
  library.def(
      "augment_params(int key, Tensor indices, Tensor heights, Tensor widths, float[] spec) "
      "-> Tensor");
}

TORCH_LIBRARY_IMPL(ssgear_native, CPU, library) {
  library.impl("augment_params", ssgear::augment_params);
}
