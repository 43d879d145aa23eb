// The gradient penalty's own passes (ssgear/kernels/gradient_penalty/pieces.py) for CPUs.
//
//   mixed_i = eps_i real_i + (1 - eps_i) fake_i
//   P       = 1/N sum_i (n_i - t)^2,  n_i = ||g_i||                            (docs/math.md 2)
//   dP/dg_i = c_i g_i,  c_i = 2/N (1 - t / n_i), and 1 / n_i is taken as 0 where n_i = 0
//
// A sample is cut into pieces of a fixed length, whose sums are added in order: results do not depend
// on the number of threads. Sums and coefficients are in double: squares of narrower types fit.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "philox.h"

// The loops below are plain; the compiler makes vectors of them, once for each instruction set. A
// binary so built runs on every machine, which at::vec, chosen when compiling, does not. Products are
// rounded before they are added: results are the same bits on all of them.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3", "fp-contract=off")
#define SSGEAR_EVERY_LEVEL __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SSGEAR_EVERY_LEVEL
#endif
#define SSGEAR_INLINE inline __attribute__((always_inline))

namespace ssgear {
namespace {

using at::Tensor;

constexpr int64_t PIECE = 16384;  // numbers; in float32 two of them fill no second-level cache
constexpr int LANES = 32;
constexpr int64_t BLOCK = 256, AHEAD = 1024;  // numbers that are asked for at once, and how early

struct Bf16 {
  uint16_t bits;
};

SSGEAR_INLINE float wide(float x) { return x; }
SSGEAR_INLINE double wide(double x) { return x; }
SSGEAR_INLINE float wide(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

SSGEAR_INLINE void narrow(float x, float& to) { to = x; }
SSGEAR_INLINE void narrow(double x, double& to) { to = x; }
SSGEAR_INLINE void narrow(float x, Bf16& to) {  // to the nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  to.bits = static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded);
}

// The processor's own prefetching stops at the end of each page of memory.
template <typename T>
SSGEAR_INLINE void prefetch(const T* from) {
  for (int64_t byte = 0; byte < BLOCK * static_cast<int64_t>(sizeof(T)); byte += 64) {
    __builtin_prefetch(reinterpret_cast<const char*>(from + AHEAD) + byte);
  }
}

// out = alpha x + beta y
template <typename T, typename W>
SSGEAR_INLINE void blend_loop(T* __restrict out, const T* x, const T* y, W alpha, W beta, int64_t n) {
  for (int64_t begin = 0; begin < n; begin += BLOCK) {
    prefetch(x + begin);
    prefetch(y + begin);
    prefetch(out + begin);
    const int64_t end = std::min(begin + BLOCK, n);
    for (int64_t j = begin; j < end; ++j) {
      narrow(alpha * wide(x[j]) + beta * wide(y[j]), out[j]);
    }
  }
}

// out = alpha x
template <typename T, typename W>
SSGEAR_INLINE void scale_loop(T* __restrict out, const T* x, W alpha, int64_t n) {
  for (int64_t begin = 0; begin < n; begin += BLOCK) {
    prefetch(x + begin);
    prefetch(out + begin);
    const int64_t end = std::min(begin + BLOCK, n);
    for (int64_t j = begin; j < end; ++j) {
      narrow(alpha * wide(x[j]), out[j]);
    }
  }
}

template <typename T>
SSGEAR_INLINE double dot_loop(const T* x, const T* y, int64_t n) {
  double lanes[LANES] = {}, total = 0;
  for (int64_t begin = 0; begin < n; begin += BLOCK) {
    prefetch(x + begin);
    if (x != y) {
      prefetch(y + begin);
    }
    const int64_t end = std::min(begin + BLOCK, n);
    int64_t j = begin;
    for (; j + LANES <= end; j += LANES) {
      for (int lane = 0; lane < LANES; ++lane) {
        lanes[lane] +=
            static_cast<double>(wide(x[j + lane])) * static_cast<double>(wide(y[j + lane]));
      }
    }
    for (; j < end; ++j) {
      total += static_cast<double>(wide(x[j])) * static_cast<double>(wide(y[j]));
    }
  }
  for (const double lane : lanes) {
    total += lane;
  }
  return total;
}

#define SSGEAR_LOOPS(T, W)                                                                       \
  SSGEAR_EVERY_LEVEL void blend(T* out, const T* x, const T* y, W alpha, W beta, int64_t n) {    \
    blend_loop(out, x, y, alpha, beta, n);                                                       \
  }                                                                                              \
  SSGEAR_EVERY_LEVEL void scale(T* out, const T* x, W alpha, int64_t n) {                        \
    scale_loop(out, x, alpha, n);                                                                \
  }                                                                                              \
  SSGEAR_EVERY_LEVEL double dot(const T* x, const T* y, int64_t n) { return dot_loop(x, y, n); } \
  SSGEAR_EVERY_LEVEL double square(const T* x, int64_t n) { return dot_loop(x, x, n); }

SSGEAR_LOOPS(float, float)
SSGEAR_LOOPS(double, double)
SSGEAR_LOOPS(Bf16, float)

template <typename T>
struct Types {
  using Stored = T;
  using Wide = T;
};
template <>
struct Types<at::BFloat16> {
  using Stored = Bf16;
  using Wide = float;
};

template <typename T>
const typename Types<T>::Stored* read(const Tensor& tensor) {
  return reinterpret_cast<const typename Types<T>::Stored*>(tensor.const_data_ptr<T>());
}

template <typename T>
typename Types<T>::Stored* write(const Tensor& tensor) {
  return reinterpret_cast<typename Types<T>::Stored*>(tensor.mutable_data_ptr<T>());
}

// N samples of `length` numbers each, in pieces.
struct Pieces {
  int64_t samples, length, each;

  explicit Pieces(const Tensor& images)
      : samples(images.size(0)),
        length(images.numel() / std::max<int64_t>(samples, 1)),
        each(std::max<int64_t>((length + PIECE - 1) / PIECE, 1)) {}

  // Calls work(sample, number of the piece, its first element, its length) for every piece. Backwards,
  // a thread meets first what the cache still holds from an earlier walk.
  template <typename Work>
  void walk(const Work& work, bool backwards = false) const {
    const int64_t grain = std::max<int64_t>(1, PIECE / std::max<int64_t>(std::min(length, PIECE), 1));
    at::parallel_for(0, samples * each, grain, [&](int64_t begin, int64_t end) {
      for (int64_t step = begin; step < end; ++step) {
        const int64_t piece = backwards ? begin + end - 1 - step : step;
        const int64_t sample = piece / each, first = piece % each * PIECE;
        work(sample, piece, sample * length + first, std::min(PIECE, length - first));
      }
    });
  }

  // Returns for every sample the sum of what work(first element, length) says of its pieces.
  template <typename Work>
  std::vector<double> sums(const Work& work) const {
    std::vector<double> partial(samples * each), total(samples, 0.0);
    walk([&](int64_t, int64_t piece, int64_t first, int64_t n) { partial[piece] = work(first, n); });
    for (int64_t piece = 0; piece < samples * each; ++piece) {
      total[piece / each] += partial[piece];
    }
    return total;
  }
};

// What philox.py's uniform(key, [index], 1) gives.
float first_uniform(uint64_t key, uint64_t index) {
  uint32_t words[4];
  philox(key, index, 0, words);
  return uniform(words[0]);
}

#define SSGEAR_DISPATCH(TYPE, NAME, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, TYPE, NAME, __VA_ARGS__)

// Fills `mixed`; `eps` is read, or drawn by (key, position) and filled where `draw` says so. Tensors
// of images lie dense, samples outermost, all in one order.
void interpolate(
    const Tensor& real, const Tensor& fake, const Tensor& eps, std::optional<int64_t> key,
    const Tensor& mixed) {
  const Pieces pieces(real);
  float* weights = eps.mutable_data_ptr<float>();
  if (key.has_value()) {
    for (int64_t sample = 0; sample < pieces.samples; ++sample) {
      weights[sample] = first_uniform(static_cast<uint64_t>(*key), static_cast<uint64_t>(sample));
    }
  }
  SSGEAR_DISPATCH(real.scalar_type(), "interpolate", [&] {
    using Wide = typename Types<scalar_t>::Wide;
    const auto* x = read<scalar_t>(real);
    const auto* y = read<scalar_t>(fake);
    auto* out = write<scalar_t>(mixed);
    pieces.walk([&](int64_t sample, int64_t, int64_t first, int64_t n) {
      const Wide weight = weights[sample];
      blend(out + first, x + first, y + first, weight, 1 - weight, n);
    });
  });
}

Tensor scalar(double value, at::ScalarType type) {
  Tensor result = at::empty({}, type);
  if (type == at::kDouble) {
    *result.mutable_data_ptr<double>() = value;
  } else {  // infinite where float32 does not hold it
    *result.mutable_data_ptr<float>() = static_cast<float>(value);
  }
  return result;
}

// c_i, see above; NaN where the norm is not finite, so that it spreads to the whole sample.
double coefficient(double norm, double target, int64_t samples) {
  if (!std::isfinite(norm)) return std::numeric_limits<double>::quiet_NaN();
  return 2.0 / samples * (norm == 0 ? 1.0 : 1.0 - target / norm);
}

std::tuple<Tensor, Tensor> penalty(const Tensor& grad, double target) {
  const Pieces pieces(grad);
  Tensor norm = at::empty({pieces.samples}, grad.options().dtype(at::kDouble));
  double* norms = norm.mutable_data_ptr<double>();
  double total = 0;
  SSGEAR_DISPATCH(grad.scalar_type(), "penalty", [&] {
    const auto* g = read<scalar_t>(grad);
    const auto squares = pieces.sums([&](int64_t first, int64_t n) { return square(g + first, n); });
    for (int64_t sample = 0; sample < pieces.samples; ++sample) {
      norms[sample] = std::sqrt(squares[sample]);
      total += (norms[sample] - target) * (norms[sample] - target);
    }
  });
  const auto type = grad.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return {scalar(total / pieces.samples, type), norm};
}

Tensor penalty_backward(const Tensor& upstream, const Tensor& grad, const Tensor& norm, double target) {
  const Pieces pieces(grad);
  const double factor = upstream.item<double>();
  const double* norms = norm.const_data_ptr<double>();
  Tensor result = at::empty_like(grad);
  SSGEAR_DISPATCH(grad.scalar_type(), "penalty_backward", [&] {
    using Wide = typename Types<scalar_t>::Wide;
    const auto* g = read<scalar_t>(grad);
    auto* out = write<scalar_t>(result);
    const auto work = [&](int64_t sample, int64_t, int64_t first, int64_t n) {
      const double c = factor * coefficient(norms[sample], target, pieces.samples);
      scale(out + first, g + first, static_cast<Wide>(c), n);
    };
    pieces.walk(work, true);
  });
  return result;
}

// Derivative of penalty_backward in direction v, with respect to `upstream` and `grad`:
// sum_i c_i <v_i, g_i>, and upstream (c_i v_i + 2/N t / n_i^3 <v_i, g_i> g_i).
std::tuple<Tensor, Tensor> penalty_double_backward(
    const Tensor& v, const Tensor& upstream, const Tensor& grad, const Tensor& norm, double target) {
  const Pieces pieces(grad);
  const double factor = upstream.item<double>();
  const double* norms = norm.const_data_ptr<double>();
  Tensor result = at::empty_like(grad);
  double slope = 0;
  SSGEAR_DISPATCH(grad.scalar_type(), "penalty_double_backward", [&] {
    using Wide = typename Types<scalar_t>::Wide;
    const auto* g = read<scalar_t>(grad);
    const auto* direction = read<scalar_t>(v);
    auto* out = write<scalar_t>(result);
    const auto dots = pieces.sums(
        [&](int64_t first, int64_t n) { return dot(direction + first, g + first, n); });
    std::vector<double> along(pieces.samples, 0.0);
    for (int64_t sample = 0; sample < pieces.samples; ++sample) {
      const double n = norms[sample];
      slope += coefficient(n, target, pieces.samples) * dots[sample];
      if (n != 0) {
        along[sample] = factor * 2 / pieces.samples * (target / n) * (dots[sample] / n / n);
      }
    }
    pieces.walk([&](int64_t sample, int64_t, int64_t first, int64_t n) {
      const double c = factor * coefficient(norms[sample], target, pieces.samples);
      blend(out + first, direction + first, g + first, static_cast<Wide>(c),
            static_cast<Wide>(along[sample]), n);
    });
  });
  return {scalar(slope, upstream.scalar_type()), result};
}

}  // namespace
}  // namespace ssgear

TORCH_LIBRARY_FRAGMENT(ssgear_native, library) {
  library.def(
      "gradient_penalty_interpolate(Tensor real, Tensor fake, Tensor(a!) eps, int? key, "
      "Tensor(b!) mixed) -> ()");
  library.def("gradient_penalty(Tensor grad, float target) -> (Tensor, Tensor)");
  library.def(
      "gradient_penalty_backward(Tensor upstream, Tensor grad, Tensor norm, float target) -> Tensor");
  library.def(
      "gradient_penalty_double_backward(Tensor v, Tensor upstream, Tensor grad, Tensor norm, "
      "float target) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(ssgear_native, CPU, library) {
  library.impl("gradient_penalty_interpolate", ssgear::interpolate);
  library.impl("gradient_penalty", ssgear::penalty);
  library.impl("gradient_penalty_backward", ssgear::penalty_backward);
  library.impl("gradient_penalty_double_backward", ssgear::penalty_double_backward);
}

// Shapes and types alone, for tracing.
TORCH_LIBRARY_IMPL(ssgear_native, Meta, library) {
  library.impl(
      "gradient_penalty_interpolate",
      [](const at::Tensor&, const at::Tensor&, const at::Tensor&, std::optional<int64_t>, const at::Tensor&) {});
  library.impl("gradient_penalty", [](const at::Tensor& grad, double) {
    const auto type = grad.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const auto norm = at::empty_symint({grad.sym_size(0)}, grad.options().dtype(at::kDouble));
    return std::make_tuple(at::empty({}, grad.options().dtype(type)), norm);
  });
  library.impl(
      "gradient_penalty_backward",
      [](const at::Tensor&, const at::Tensor& grad, const at::Tensor&, double) { return at::empty_like(grad); });
  library.impl(
      "gradient_penalty_double_backward",
      [](const at::Tensor&, const at::Tensor& upstream, const at::Tensor& grad, const at::Tensor&, double) {
        return std::make_tuple(at::empty_like(upstream), at::empty_like(grad));
      });
}
