// Rows of embeddings around the walks of NT-Xent and InfoNCE (ssgear/kernels/nt_xent/rows.py), for CPUs.
//
//   scaled_rows        u = z / |z| / sqrt(tau), and what z was divided by
//   gradient_of_rows   from dL/du to dL/dz, and <u, dL/du> of each row
//   zero_or_nan        whether everything is finite
//
// A row is read and written while it is in the nearest cache, where a dozen tensor operators would
// each go through all rows. A sum has LANES parts, so that the compiler may use vectors.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

namespace ssgear {
namespace {

using at::Tensor;

constexpr int64_t LANES = 16;
constexpr int64_t GRAIN = 1 << 15;  // numbers below which another thread costs more than it saves

int64_t rows_at_once(int64_t width) {
  return std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, width));
}

// Calls each(d, lane) for all d below width; lane repeats from 0 to LANES - 1.
template <typename Each>
inline void over_lanes(int64_t width, const Each& each) {
  int64_t d = 0;
  for (; d + LANES <= width; d += LANES) {
    for (int64_t lane = 0; lane < LANES; ++lane) {
      each(d + lane, lane);
    }
  }
  for (int64_t lane = 0; d + lane < width; ++lane) {
    each(d + lane, lane);
  }
}

template <typename T>
inline T total(const T (&parts)[LANES]) {
  T sum = 0;
  for (const T part : parts) {
    sum += part;
  }
  return sum;
}

// The power of two below the largest entry, by which dividing is exact; 1 for a zero row, and NaN
// where something is not finite.
template <typename T>
T scale_of(const T* z, int64_t width) {
  T largest[LANES] = {};
  over_lanes(width, [&](int64_t d, int64_t lane) {
    const T size = std::abs(z[d]);
    largest[lane] = size > largest[lane] || size != size ? size : largest[lane];
  });
  T most = 0;
  for (const T each : largest) {
    most = each > most || each != each ? each : most;
  }
  if (most == 0) {
    return 1;
  }
  int exponent = 0;
  std::frexp(most, &exponent);
  return std::isfinite(most) ? std::ldexp(T(1), exponent - 1) : std::numeric_limits<T>::quiet_NaN();
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> unit_rows(const Tensor& z_RD, T root) {
  const int64_t rows = z_RD.size(0), width = z_RD.size(1);
  Tensor u_RD = at::empty_like(z_RD), factor_R1 = at::empty({rows, 1}, z_RD.options());
  Tensor scale_R1 = at::empty_like(factor_R1);
  const T* z = z_RD.const_data_ptr<T>();
  T *u = u_RD.mutable_data_ptr<T>(), *factors = factor_R1.mutable_data_ptr<T>();
  T* scales = scale_R1.mutable_data_ptr<T>();
  at::parallel_for(0, rows, rows_at_once(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* from = z + row * width;
      T* to = u + row * width;
      const T scale = scale_of(from, width);
      T squares[LANES] = {};
      over_lanes(width, [&](int64_t d, int64_t lane) {
        to[d] = from[d] / scale;
        squares[lane] += to[d] * to[d];
      });
      const T norm = std::sqrt(total(squares));
      const T factor = norm == 0 ? root * 0 : root / norm;  // NaN where tau is none
      for (int64_t d = 0; d < width; ++d) {
        to[d] *= factor;
      }
      factors[row] = factor;
      scales[row] = scale;
    }
  });
  return {u_RD, factor_R1, scale_R1};
}

// Without normalisation there is one factor for all rows, and no scale.
std::tuple<Tensor, Tensor, Tensor> scaled_rows(const Tensor& z, const Tensor& tau, bool normalize) {
  const bool wide = z.scalar_type() == at::kDouble;
  const Tensor z_RD = z.to(wide ? at::kDouble : at::kFloat).contiguous();
  const Tensor root = tau.rsqrt();
  if (!normalize) {
    return {z_RD * root, root, Tensor()};
  }
  return wide ? unit_rows<double>(z_RD, root.item<double>()) : unit_rows<float>(z_RD, root.item<float>());
}

template <typename T>
Tensor gradient(Tensor& grad_RD, const Tensor& u_RD, T tau, const Tensor& factor_R1,
                const std::optional<Tensor>& scale_R1) {
  const int64_t rows = u_RD.size(0), width = u_RD.size(1);
  Tensor slope_R1 = at::empty({rows, 1}, u_RD.options());
  T *grad = grad_RD.mutable_data_ptr<T>(), *slopes = slope_R1.mutable_data_ptr<T>();
  const T *u = u_RD.const_data_ptr<T>(), *factors = factor_R1.const_data_ptr<T>();
  const T* scales = scale_R1 ? scale_R1->const_data_ptr<T>() : nullptr;
  at::parallel_for(0, rows, rows_at_once(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* own = grad + row * width;
      const T* along = u + row * width;
      T parts[LANES] = {};
      over_lanes(width, [&](int64_t d, int64_t lane) { parts[lane] += along[d] * own[d]; });
      slopes[row] = total(parts);
      // a length that is normalised away has no gradient
      const T back = scales ? slopes[row] * tau : 0;
      const T factor = scales ? factors[row] : factors[0];
      const T scale = scales ? scales[row] : 1;
      for (int64_t d = 0; d < width; ++d) {
        own[d] = (own[d] - along[d] * back) * factor / scale;
      }
    }
  });
  return slope_R1;
}

Tensor gradient_of_rows(Tensor& grad_RD, const Tensor& u_RD, const Tensor& tau,
                        const Tensor& factor_R1, const std::optional<Tensor>& scale_R1) {
  const int64_t rows = u_RD.size(0);
  TORCH_CHECK(grad_RD.sizes() == u_RD.sizes() && grad_RD.is_contiguous() && u_RD.is_contiguous() &&
                  factor_R1.numel() == (scale_R1 ? rows : 1) &&
                  (!scale_R1 || scale_R1->numel() == rows),
              "gradient_of_rows: parts of other rows");
  return u_RD.scalar_type() == at::kDouble
      ? gradient<double>(grad_RD, u_RD, tau.item<double>(), factor_R1, scale_R1)
      : gradient<float>(grad_RD, u_RD, tau.item<float>(), factor_R1, scale_R1);
}

template <typename T>
bool is_finite(const Tensor& rows) {
  const T* values = rows.const_data_ptr<T>();
  std::atomic<bool> finite = true;
  at::parallel_for(0, rows.numel(), GRAIN, [&](int64_t begin, int64_t end) {
    T nothing[LANES] = {};  // 0 times what is not finite is NaN
    over_lanes(end - begin, [&](int64_t d, int64_t lane) { nothing[lane] += values[begin + d] * 0; });
    if (total(nothing) != 0) {
      finite = false;
    }
  });
  return finite;
}

Tensor zero_or_nan(const Tensor& rows) {
  const Tensor flat = rows.contiguous();
  const bool finite = rows.scalar_type() == at::kDouble ? is_finite<double>(flat) : is_finite<float>(flat);
  return at::full({}, finite ? 0.0 : std::numeric_limits<double>::quiet_NaN(), rows.options());
}

}  // namespace
}  // namespace ssgear

TORCH_LIBRARY_FRAGMENT(ssgear_native, library) {
  library.def("scaled_rows(Tensor z_RD, Tensor tau, bool normalize) -> (Tensor, Tensor, Tensor)");
  library.def(
      "gradient_of_rows(Tensor(a!) grad_RD, Tensor u_RD, Tensor tau, Tensor factor_R1, "
      "Tensor? scale_R1) -> Tensor");
  library.def("zero_or_nan(Tensor rows) -> Tensor");
}

TORCH_LIBRARY_IMPL(ssgear_native, CPU, library) {
  library.impl("scaled_rows", ssgear::scaled_rows);
  library.impl("gradient_of_rows", ssgear::gradient_of_rows);
  library.impl("zero_or_nan", ssgear::zero_or_nan);
}
