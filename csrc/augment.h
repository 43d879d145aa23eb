// The fused augmentation's own terms (ssgear/kernels/augment/views.py): one image in, one view out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ssgear {

// Where the numbers of a view stand in its row of the packed parameters.
constexpr int TOP = 0, LEFT = 1, HEIGHT = 2, WIDTH = 3, FLIP = 4, JITTER = 5, ORDER = 9, GREY = 13,
              BLUR = 14, SOLARISE = 15, COLUMNS = 16;

enum Operation { BRIGHTNESS, CONTRAST, SATURATION, HUE };
constexpr int OPERATIONS = 4;

enum class Number { uint8, float32, bfloat16 };

// Strides are in numbers.
struct ImageIn {
  const void* pixels;
  Number type;
  int64_t channel, row, column;
};

struct ViewOut {
  void* pixels;
  Number type;
  bool channels_last;
};

struct AugmentSettings {
  int64_t height, width;  // of a view
  bool resize;            // or the image is of that size, and its box is not read
  bool bicubic, antialias;
  int64_t blur_radius;
  float threshold, mean[3], scale[3];
};

constexpr int64_t LANES = 16;  // numbers that are worked on together; rows are padded to them

constexpr int64_t padded_row(int64_t width) {
  return (width + LANES - 1) / LANES * LANES;
}

// What a thread keeps between views: buffers that only grow. They begin at a line of the cache,
// and what was never written is 0.
class Workspace {
 public:
  enum Buffer {
    WEIGHTS_DOWN,
    WEIGHTS_ACROSS,
    RAW_WEIGHTS,
    TURNED,
    RING,
    PLANES,
    LINE,
    EDGED,
    BLUR_WEIGHTS,
    BUFFERS
  };

  float* floats(Buffer buffer, int64_t count) {
    std::vector<Line>& lines = lines_[buffer];
    const auto needed = static_cast<std::size_t>((count + LANES - 1) / LANES);
    if (lines.size() < needed) {
      lines.resize(needed);
    }
    return lines.front().values;
  }

  int32_t* places(bool across, int64_t count) {
    if (places_[across].size() < static_cast<std::size_t>(count)) {
      places_[across].resize(count);
    }
    return places_[across].data();
  }

 private:
  struct alignas(64) Line {
    float values[LANES] = {};
  };
  std::vector<Line> lines_[BUFFERS];
  std::vector<int32_t> places_[2];
};

// Makes the view that COLUMNS numbers describe.
using ViewMaker = void (*)(
    const ImageIn&, const float* view, const AugmentSettings&, const ViewOut&, Workspace&);

// The version for a CPU capability as PyTorch names it (AVX512, AVX2, DEFAULT, ...).
ViewMaker view_maker_for(const char* capability);

}  // namespace ssgear
