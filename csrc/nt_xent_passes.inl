// Included once for each instruction set (levels.inl); no guard, on purpose.
//
// float32 is worked on in vectors; float64 number by number, it is there to check.

namespace ssgear {
namespace SSGEAR_LEVEL {

typedef float Floats __attribute__((vector_size(SSGEAR_BYTES)));
typedef int32_t Ints __attribute__((vector_size(SSGEAR_BYTES)));

template <typename T>
struct Pack;

template <>
struct Pack<float> {
  using Type = Floats;
  static constexpr int64_t size = SSGEAR_BYTES / sizeof(float);
};

template <>
struct Pack<double> {
  using Type = double;
  static constexpr int64_t size = 1;
};

template <typename T>
SSGEAR_TARGET inline typename Pack<T>::Type load(const T* from) {
  typename Pack<T>::Type pack;
  std::memcpy(&pack, from, sizeof(pack));
  return pack;
}

template <typename T>
SSGEAR_TARGET inline void store(T* to, const typename Pack<T>::Type& pack) {
  std::memcpy(to, &pack, sizeof(pack));
}

SSGEAR_TARGET inline double sum(double pack) {
  return pack;
}

// In pairs: four dependent steps in place of sixteen, and as few roundings.
SSGEAR_TARGET inline double sum(const Floats& pack) {
  float lanes[Pack<float>::size];
  std::memcpy(lanes, &pack, sizeof(pack));
  for (int64_t half = Pack<float>::size / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) {
      lanes[lane] += lanes[lane + half];
    }
  }
  return lanes[0];
}

SSGEAR_TARGET inline double exponential(double x) {
  return std::exp(x);
}

// exp(x) = 2^n exp(r) with |r| <= log(2) / 2, where a polynomial has a relative error of 3e-9.
// Below -88 the result is 0, NaN stays NaN; x is at most about 88.
SSGEAR_TARGET inline Floats exponential(Floats x) {
  constexpr float LOG2_E = 1.44269504f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
  constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it leaves n in the lowest bits
  const Floats lowest = Floats{} - 88.0f;
  x = x < lowest ? lowest : x;
  const Floats shifted = x * LOG2_E + ROUND;
  const Floats n = shifted - ROUND;
  const Floats r = (x - n * LN2_HIGH) - n * LN2_LOW;
  Floats p = r * 0.0013814540579915047f + 0.00836874544620514f;
  p = p * r + 0.04166838899254799f;
  p = p * r + 0.1666652113199234f;
  p = p * r + 0.4999999403953552f;
  p = p * (r * r) + r + 1.0f;
  const Ints power = ((Ints)shifted + 127) << 23;  // 0 where n = -127
  return p * (Floats)power;
}

// Sums in T go over this many rows, then into float64: long float32 sums lose digits.
constexpr int64_t CHUNK = 32;
constexpr int64_t WIDEST = 512;

template <typename T>
SSGEAR_TARGET void add_exponentials(const Tile<T>& tile, double* row_sums, double* column_sums) {
  constexpr int64_t step = Pack<T>::size;
  using Values = typename Pack<T>::Type;
  T down[WIDEST];
  for (int64_t top = 0; top < tile.rows; top += CHUNK) {
    std::fill_n(down, tile.columns, T(0));
    for (int64_t row = top; row < std::min(top + CHUNK, tile.rows); ++row) {
      const T* s = tile.values + row * tile.stride;
      Values across{};
      for (int64_t column = 0; column < tile.columns; column += step) {
        const Values e = exponential(load(s + column));
        across += e;
        store(down + column, load(down + column) + e);
      }
      row_sums[row] += sum(across);
    }
    for (int64_t column = 0; column_sums && column < tile.columns; ++column) {
      column_sums[column] += down[column];
    }
  }
}

// log(exp(a) + exp(b)), NaN if one is; minus infinity is the logarithm of nothing.
SSGEAR_TARGET inline double log_add(double a, double b) {
  const double larger = std::max(a, b), smaller = std::min(a, b);
  if (std::isnan(a) || std::isnan(b)) {
    return a + b;
  }
  return std::isinf(larger) ? larger : larger + std::log1p(std::exp(smaller - larger));
}

template <typename T>
SSGEAR_TARGET inline void take_larger(T* to, const typename Pack<T>::Type& pack) {
  const typename Pack<T>::Type old = load(to);
  store(to, pack > old ? pack : old);
}

template <typename T>
SSGEAR_TARGET void add_log_exponentials(
    const Tile<T>& tile, double* row_totals, double* column_totals) {
  constexpr int64_t step = Pack<T>::size;
  using Values = typename Pack<T>::Type;
  // finite, so that a row that sees only itself gives exp(-inf - lowest) = 0 and not NaN
  constexpr T lowest = std::numeric_limits<T>::lowest();
  T highest[WIDEST];  // of each column
  double down[WIDEST];
  std::fill_n(highest, tile.columns, lowest);
  std::fill_n(down, tile.columns, 0.0);
  for (int64_t row = 0; row < tile.rows; ++row) {
    const T* s = tile.values + row * tile.stride;
    T lanes[step];
    std::fill_n(lanes, step, lowest);
    for (int64_t column = 0; column < tile.columns; column += step) {
      take_larger<T>(lanes, load(s + column));
      take_larger<T>(highest + column, load(s + column));
    }
    const T largest = *std::max_element(lanes, lanes + step);
    Values across{};
    for (int64_t column = 0; column < tile.columns; column += step) {
      across += exponential(load(s + column) - largest);
    }
    row_totals[row] = log_add(row_totals[row], largest + std::log(sum(across)));
  }
  if (!column_totals) {
    return;
  }
  for (int64_t top = 0; top < tile.rows; top += CHUNK) {
    T part[WIDEST];
    std::fill_n(part, tile.columns, T(0));
    for (int64_t row = top; row < std::min(top + CHUNK, tile.rows); ++row) {
      const T* s = tile.values + row * tile.stride;
      for (int64_t column = 0; column < tile.columns; column += step) {
        const Values e = exponential(load(s + column) - load(highest + column));
        store(part + column, load(part + column) + e);
      }
    }
    for (int64_t column = 0; column < tile.columns; ++column) {
      down[column] += part[column];
    }
  }
  for (int64_t column = 0; column < tile.columns; ++column) {
    const double total = highest[column] + std::log(down[column]);
    column_totals[column] = log_add(column_totals[column], total);
  }
}

template <typename T>
SSGEAR_TARGET void weigh(const Tile<T>& tile, const T* a_rows, const T* a_columns) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* s = tile.values + row * tile.stride;
    for (int64_t column = 0; column < tile.columns; column += Pack<T>::size) {
      const auto weight = load(a_columns + column) + a_rows[row];
      store<T>(s + column, exponential(load(s + column)) * weight);
    }
  }
}

template <typename T>
SSGEAR_TARGET void weigh_shifted(
    const Tile<T>& tile, const T* c_rows, const T* a_rows, const T* c_columns, const T* a_columns) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* s = tile.values + row * tile.stride;
    for (int64_t column = 0; column < tile.columns; column += Pack<T>::size) {
      const auto value = load(s + column);
      const auto across = exponential(value - c_rows[row]) * a_rows[row];
      const auto down = exponential(value - load(c_columns + column)) * load(a_columns + column);
      store<T>(s + column, across + down);
    }
  }
}

template <typename T>
constexpr Passes<T> passes() {
  return {add_exponentials<T>, add_log_exponentials<T>, weigh<T>, weigh_shifted<T>};
}

}  // namespace SSGEAR_LEVEL
}  // namespace ssgear
