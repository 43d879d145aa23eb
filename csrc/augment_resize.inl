// Crop and resize; included once for each instruction set (levels.inl), no guard, on purpose.
//
// The weights are those of ssgear/kernels/augment/resample.py, by the same steps in the same types:
// multiples of 2^-15, whose sums with whole numbers are exact in float32 in any order.

namespace ssgear {
namespace SSGEAR_LEVEL {

typedef float Floats __attribute__((vector_size(SSGEAR_BYTES)));
typedef int32_t Ints __attribute__((vector_size(SSGEAR_BYTES)));
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef float Four __attribute__((vector_size(16)));
typedef int32_t Ints4 __attribute__((vector_size(16)));

constexpr int64_t PACK = SSGEAR_BYTES / sizeof(float);
constexpr float FIXED_POINT = 32768.0f;
constexpr float TO_WHOLE = 12582912.0f;  // 1.5 * 2^23: adding it rounds to whole numbers
constexpr int64_t ROWS_AT_ONCE = 16;     // of the box, resized across together

SSGEAR_TARGET inline Floats load(const float* from) {
  Floats pack;
  std::memcpy(&pack, from, sizeof(pack));
  return pack;
}

SSGEAR_TARGET inline void store(float* to, const Floats& pack) {
  std::memcpy(to, &pack, sizeof(pack));
}

SSGEAR_TARGET inline float bounded(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// The nearest whole numbers in [0, 255], halves up.
SSGEAR_TARGET inline Floats whole_pixels(Floats x) {
  x = x < 0.0f ? Floats{} : x;
  x = x > 255.0f ? Floats{} + 255.0f : x;
  return __builtin_convertvector(__builtin_convertvector(x + 0.5f, Ints), Floats);
}

#if defined(__clang__)
#define SSGEAR_SHUFFLE(V, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SSGEAR_SHUFFLE(V, a, b, ...) \
  __builtin_shuffle(a, b, V{__VA_ARGS__})
#endif

// Swaps rows and columns of 16 x 16 bytes. Dealing the first and the second half alternately moves
// an index of eight bits (row, column) on by one bit; four times do.
SSGEAR_TARGET inline void transpose(Bytes* tile) {
  for (int round = 0; round < 4; ++round) {
    Bytes dealt[16];
    for (int i = 0; i < 8; ++i) {
      const Bytes a = tile[i], b = tile[i + 8];
      dealt[2 * i] =
          SSGEAR_SHUFFLE(Bytes, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      dealt[2 * i + 1] =
          SSGEAR_SHUFFLE(Bytes, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    std::memcpy(tile, dealt, sizeof(dealt));
  }
}

// The same for 4 x 4 numbers, read `LANES` apart and written to `left` of four lines.
SSGEAR_TARGET inline void transpose(const float* from, float* const* to, int64_t left) {
  Four a, b, c, d;
  std::memcpy(&a, from, sizeof(a));
  std::memcpy(&b, from + LANES, sizeof(b));
  std::memcpy(&c, from + 2 * LANES, sizeof(c));
  std::memcpy(&d, from + 3 * LANES, sizeof(d));
  const Four ac_low = SSGEAR_SHUFFLE(Ints4, a, c, 0, 4, 1, 5);
  const Four ac_high = SSGEAR_SHUFFLE(Ints4, a, c, 2, 6, 3, 7);
  const Four bd_low = SSGEAR_SHUFFLE(Ints4, b, d, 0, 4, 1, 5);
  const Four bd_high = SSGEAR_SHUFFLE(Ints4, b, d, 2, 6, 3, 7);
  const Four lines[4] = {
      SSGEAR_SHUFFLE(Ints4, ac_low, bd_low, 0, 4, 1, 5),
      SSGEAR_SHUFFLE(Ints4, ac_low, bd_low, 2, 6, 3, 7),
      SSGEAR_SHUFFLE(Ints4, ac_high, bd_high, 0, 4, 1, 5),
      SSGEAR_SHUFFLE(Ints4, ac_high, bd_high, 2, 6, 3, 7)};
  for (int line = 0; line < 4; ++line) {
    std::memcpy(to[line] + left, &lines[line], sizeof(Four));
  }
}

#undef SSGEAR_SHUFFLE

// Output s is the sum of weights[s * count + k] times pixel first[s] + k of the box; what would lie
// past the box has weight 0.
struct Taps {
  int64_t count;
  const float* weights;
  const int32_t* first;
};

// Adds the weights of tap k of all outputs to `total`.
SSGEAR_TARGET inline void weigh(
    float* __restrict weights, float* __restrict total, const float* offset, const float* edge,
    int64_t size, float k, float step, bool bicubic) {
  for (int64_t s = 0; s < size; ++s) {
    const float sum = k * step + offset[s];
    const float distance = sum < 0 ? -sum : sum;
    const float near = bounded(1 - distance, 0, 1), far = bounded(2 - distance, 0, 2);
    const float cubic = (far - 1) * (far * far) * 0.5f + (1 - 2 * near) * (near * near);
    const float weight = (bicubic ? cubic : near) * bounded(edge[s] - k, 0, 1);
    weights[s] = weight;
    total[s] += weight;
  }
}

// Returns the number of taps that are not all 0.
SSGEAR_TARGET inline int64_t quantise(float* raw, const float* total, int64_t size, int64_t most) {
  int64_t count = 1;
  for (int64_t k = 0; k < most; ++k) {
    float* __restrict weights = raw + k * size;
    int32_t any = 0;
    for (int64_t s = 0; s < size; ++s) {
      const float scaled = weights[s] / total[s] * FIXED_POINT;
      const float rounded = (scaled + TO_WHOLE) - TO_WHOLE;
      any |= static_cast<int32_t>(rounded);
      weights[s] = rounded / FIXED_POINT;
    }
    count = any != 0 ? k + 1 : count;
  }
  return count;
}

SSGEAR_TARGET Taps make_taps(
    bool across, int64_t length, int64_t size, const AugmentSettings& settings, Workspace& workspace) {
  const double scale = static_cast<double>(length) / static_cast<double>(size);
  const double widen = settings.antialias && scale > 1 ? scale : 1.0;
  const double radius = settings.bicubic ? 2.0 : 1.0;
  const int64_t most = 2 * static_cast<int64_t>(std::ceil(radius * widen)) + 1;
  float* raw = workspace.floats(Workspace::RAW_WEIGHTS, (most + 3) * size);
  float *offset = raw + most * size, *edge = offset + size, *total = edge + size;
  int32_t* first = workspace.places(across, size);
  for (int32_t s = 0; s < static_cast<int32_t>(size); ++s) {
    const double centre = (s + 0.5) * scale;
    const double lowest = std::floor(centre - radius * widen + 0.5);
    const double place = lowest > 0 ? lowest : 0.0;
    first[s] = static_cast<int32_t>(place);
    offset[s] = static_cast<float>((place + 0.5 - centre) / widen);
    edge[s] = static_cast<float>(static_cast<double>(length) - place);
    total[s] = 0;
  }
  const float step = static_cast<float>(1 / widen);
  for (int64_t k = 0; k < most; ++k) {
    weigh(raw + k * size, total, offset, edge, size, static_cast<float>(k), step, settings.bicubic);
  }
  const int64_t count = quantise(raw, total, size, most);
  const auto buffer = across ? Workspace::WEIGHTS_ACROSS : Workspace::WEIGHTS_DOWN;
  float* weights = workspace.floats(buffer, count * size);
  for (int64_t s = 0; s < size; ++s) {
    for (int64_t k = 0; k < count; ++k) {
      weights[s * count + k] = raw[k * size + s];
    }
  }
  return {count, weights, first};
}

// LANES lines of the image side by side, [columns][LANES], so that one weight serves a vector.
SSGEAR_TARGET inline void turn(
    const uint8_t* const* lines, int64_t stride, int64_t columns, float* __restrict turned) {
  for (int64_t left = 0; left < columns; left += LANES) {
    const int64_t wide = columns - left < LANES ? columns - left : LANES;
    Bytes tile[LANES] = {};
    for (int64_t lane = 0; lane < LANES; ++lane) {
      const uint8_t* line = lines[lane] + left * stride;
      if (stride == 1 && wide == LANES) {
        std::memcpy(&tile[lane], line, sizeof(Bytes));
        continue;
      }
      uint8_t pixels[LANES] = {};
      for (int64_t x = 0; x < wide; ++x) {
        pixels[x] = line[x * stride];
      }
      std::memcpy(&tile[lane], pixels, sizeof(Bytes));
    }
    transpose(tile);
    alignas(64) uint8_t bytes[LANES * LANES];
    std::memcpy(bytes, tile, sizeof(bytes));
    for (int64_t i = 0; i < LANES * LANES; ++i) {
      turned[left * LANES + i] = static_cast<float>(bytes[i]);
    }
  }
}

// Resizes LANES lines: out[lane][x] for x below `size`, mirrored if `flip`.
SSGEAR_TARGET inline void resize_across(
    const float* turned, const Taps& taps, int64_t size, bool flip, float* const* out) {
  for (int64_t left = 0; left < size; left += LANES) {
    alignas(64) float block[LANES * LANES] = {};
    for (int64_t x = 0; x < LANES && left + x < size; ++x) {
      const int64_t s = flip ? size - 1 - left - x : left + x;
      const float* weights = taps.weights + s * taps.count;
      const float* pixels = turned + taps.first[s] * LANES;
      for (int64_t part = 0; part < LANES; part += PACK) {
        Floats sum{};
        for (int64_t k = 0; k < taps.count; ++k) {
          sum += load(pixels + k * LANES + part) * weights[k];
        }
        store(block + x * LANES + part, whole_pixels(sum));
      }
    }
    for (int64_t lane = 0; lane < LANES; lane += 4) {
      for (int64_t x = 0; x < LANES; x += 4) {
        transpose(block + x * LANES + lane, out + lane, left + x);
      }
    }
  }
}

// The crop, row by row from the top; of the box, only rows that are still needed are kept.
struct Resizer {
  const uint8_t* corner;  // of the box
  int64_t channel, row, column, tall, wide, width, stride;
  bool flip;
  Taps down, across;
  int64_t kept, ready;  // rows in the ring; rows of the box that were resized across
  float *ring, *turned;
};

SSGEAR_TARGET Resizer make_resizer(
    const ImageIn& image, const float* view, const AugmentSettings& settings, Workspace& workspace) {
  Resizer r{};
  const int64_t top = static_cast<int64_t>(view[TOP]), left = static_cast<int64_t>(view[LEFT]);
  r.corner = static_cast<const uint8_t*>(image.pixels) + top * image.row + left * image.column;
  r.channel = image.channel, r.row = image.row, r.column = image.column;
  r.tall = static_cast<int64_t>(view[HEIGHT]), r.wide = static_cast<int64_t>(view[WIDTH]);
  r.width = settings.width, r.stride = padded_row(settings.width);
  r.flip = view[FLIP] != 0;
  r.down = make_taps(false, r.tall, settings.height, settings, workspace);
  r.across = make_taps(true, r.wide, settings.width, settings, workspace);
  r.kept = r.down.count + ROWS_AT_ONCE;
  r.ring = workspace.floats(Workspace::RING, 3 * r.kept * r.stride);
  const int64_t columns = padded_row(r.wide) + r.across.count;
  r.turned = workspace.floats(Workspace::TURNED, columns * LANES);
  std::fill(r.turned + r.wide * LANES, r.turned + columns * LANES, 0.0f);
  return r;
}

SSGEAR_TARGET inline float* ring_row(const Resizer& r, int64_t channel, int64_t row) {
  return r.ring + (channel * r.kept + row % r.kept) * r.stride;
}

// Resizes the next rows of the box across, of all channels together.
SSGEAR_TARGET void advance(Resizer& r) {
  const int64_t left = r.tall - r.ready, rows = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
  const uint8_t* lines[LANES];
  float* out[LANES];
  for (int64_t begin = 0; begin < 3 * rows; begin += LANES) {
    for (int64_t lane = 0; lane < LANES; ++lane) {  // lanes that are left over repeat the last line
      const int64_t line = begin + lane < 3 * rows ? begin + lane : 3 * rows - 1;
      const int64_t channel = line / rows, row = r.ready + line % rows;
      lines[lane] = r.corner + channel * r.channel + row * r.row;
      out[lane] = ring_row(r, channel, row);
    }
    turn(lines, r.column, r.wide, r.turned);
    resize_across(r.turned, r.across, r.width, r.flip, out);
  }
  r.ready += rows;
}

// Writes row y of the crop's three channels, `stride` apart.
SSGEAR_TARGET void resized_row(Resizer& r, int64_t y, float* const* out) {
  const int64_t first = r.down.first[y], count = r.down.count;
  while (r.ready < r.tall && r.ready < first + count) {
    advance(r);
  }
  const float* weights = r.down.weights + y * count;
  const int64_t inside = r.tall - first < count ? r.tall - first : count;
  for (int64_t channel = 0; channel < 3; ++channel) {
    const float* lines = r.ring + channel * r.kept * r.stride;
    const int64_t place = first % r.kept, straight = std::min(inside, r.kept - place);
    for (int64_t x = 0; x < r.stride; x += PACK) {
      Floats sum{};
      for (int64_t k = 0; k < straight; ++k) {
        sum += load(lines + (place + k) * r.stride + x) * weights[k];
      }
      for (int64_t k = straight; k < inside; ++k) {  // from the ring's beginning on
        sum += load(lines + (k - straight) * r.stride + x) * weights[k];
      }
      store(out[channel] + x, whole_pixels(sum));
    }
  }
}

}  // namespace SSGEAR_LEVEL
}  // namespace ssgear
