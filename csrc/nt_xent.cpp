// The two walks over tiles of NT-Xent (ssgear/kernels/nt_xent/streaming.py) for CPUs.
//
//   log_sum_exp     lse_i = log sum_{k != i} exp(s_ik)
//   weighted_rows   sum_j (P_ij + P_ji) u_j,  P_ij = exp(s_ij - lse_i)     (docs/math.md 1)
//
// Tiles of s = u u^T come from the platform's matrix product and stay in the second-level cache;
// one pass over a tile takes the exponential and everything that follows from it. Where u_RD and
// u_MD are one tensor, a tile above the diagonal serves its rows and columns, in both directions.

#include <ATen/ATen.h>
#include <ATen/CPUFunctions.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include <limits>
#include <vector>

#include "nt_xent_passes.h"
#include "tile_schedule.h"

namespace ssgear {
namespace {

using at::Tensor;

constexpr int64_t LARGEST_BLOCK = 512;  // a tile is then 1 MB of float32
constexpr int64_t SMALLEST_BLOCK = 128;  // below that the matrix product is slow

int64_t padded(int64_t count) {
  return (count + PADDING - 1) / PADDING * PADDING;
}

// Side of a block. A tile takes two blocks, so this keeps all threads busy; up to eight threads the
// side, and with it every bit of a result, does not depend on their number.
int64_t block_side(int64_t rows) {
  const int64_t blocks = std::max<int64_t>(16, 2 * at::get_num_threads());
  return std::clamp(padded((rows + blocks - 1) / blocks), SMALLEST_BLOCK, LARGEST_BLOCK);
}

template <typename T>
const Passes<T>& passes() {
  static const Passes<T>& chosen = passes_for<T>(at::get_cpu_capability().c_str());
  return chosen;
}

// Walks over all tiles of s on all threads.
template <typename T>
class Walk {
 public:
  Walk(const Tensor& u_RD, const Tensor& u_MD, int64_t first)
      : symmetric_(u_RD.is_same(u_MD)),
        first_(first),
        side_(block_side(u_RD.size(0))),
        rows_(u_RD.split(side_)),
        columns_(symmetric_ ? rows_ : u_MD.split(side_)),
        schedule_(rows_.size(), columns_.size(), symmetric_) {
    for (const Tensor& column : columns_) {
      turned_columns_.push_back(column.t());
    }
  }

  int64_t side() const {
    return side_;
  }
  const std::vector<Tensor>& rows() const {
    return rows_;
  }
  const std::vector<Tensor>& columns() const {
    return columns_;
  }

  // Calls add(s_IJ, tile, row, column, mirrored) for each tile, which it may overwrite; tile is
  // what the passes take, row and column are the numbers of its blocks. What is added to a block
  // of rows is added in an order that no timing changes.
  template <typename Add>
  void work(const Tensor& like, const Add& add) {
    const int64_t workers = std::min<int64_t>(at::get_num_threads(), schedule_.size());
    const int64_t stride = padded(side_);
    const Tensor space = at::empty({workers, side_, stride}, like.options());
    at::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
      const at::AutoDispatchBelowADInplaceOrView inside_an_operator;
      for (int64_t worker = begin; worker < end; ++worker) {
        const Tensor own_space = space[worker];
        Tensor s_IJ;
        schedule_.work(
            [&](int64_t row, int64_t column) { s_IJ = make(own_space, row, column); },
            [&](int64_t row, int64_t column, bool mirrored) {
              const Tile<T> tile = {
                  s_IJ.mutable_data_ptr<T>(), s_IJ.size(0), padded(s_IJ.size(1)), stride};
              add(s_IJ, tile, row, column, mirrored);
            });
      }
    });
  }

 private:
  Tensor make(const Tensor& space, int64_t row, int64_t column) const {
    Tensor s_IJ = space.narrow(0, 0, rows_[row].size(0)).narrow(1, 0, columns_[column].size(0));
    at::cpu::mm_out(s_IJ, rows_[row], turned_columns_[column]);
    mask(s_IJ, first_ + row * side_ - column * side_);
    return s_IJ;
  }

  // Fills what is not there: a row's similarity with itself, and columns after the last.
  static void mask(Tensor& s_IJ, int64_t offset) {
    constexpr T nothing = -std::numeric_limits<T>::infinity();
    const int64_t rows = s_IJ.size(0), columns = s_IJ.size(1), stride = s_IJ.stride(0);
    T* values = s_IJ.mutable_data_ptr<T>();
    for (int64_t row = 0; row < rows; ++row) {
      std::fill(values + row * stride + columns, values + row * stride + padded(columns), nothing);
      if (row + offset >= 0 && row + offset < columns) {
        values[row * stride + row + offset] = nothing;
      }
    }
  }

  bool symmetric_;
  int64_t first_, side_;
  std::vector<Tensor> rows_, columns_, turned_columns_;
  TileSchedule schedule_;
};

template <typename T>
Tensor log_sum_exp_of(const Tensor& u_RD, const Tensor& u_MD, int64_t first, bool bounded) {
  Walk<T> walk(u_RD, u_MD, first);
  const double empty = bounded ? 0.0 : -std::numeric_limits<double>::infinity();
  // padded: a pass writes whole vectors
  Tensor total_R = at::full({u_RD.size(0) + PADDING}, empty, u_RD.options().dtype(at::kDouble));
  double* totals = total_R.mutable_data_ptr<double>();
  const auto pass = bounded ? passes<T>().add_exponentials : passes<T>().add_log_exponentials;
  const int64_t side = walk.side();
  walk.work(u_RD, [&](Tensor&, const Tile<T>& tile, int64_t row, int64_t column, bool mirrored) {
    pass(tile, totals + row * side, mirrored ? totals + column * side : nullptr);
  });
  total_R = total_R.narrow(0, 0, u_RD.size(0)).clone();
  return bounded ? total_R.log_() : total_R;
}

// Bounded: exp(s_ij) (a_i + a_j), a = exp(-lse). Otherwise exp(s_ij - c_i) a_i + exp(s_ij - c_j)
// a_j with c = lse rounded, a = exp(c - lse): rows of P sum to 1 even where lse is large.
template <typename T>
Tensor weighted_rows_of(
    const Tensor& u_RD, const Tensor& u_MD, const Tensor& lse_M, int64_t first, bool bounded) {
  Walk<T> walk(u_RD, u_MD, first);
  constexpr double no_anchor = std::numeric_limits<double>::infinity();
  // padded: a pass reads whole vectors
  const Tensor lse_P = at::constant_pad_nd(lse_M, {0, PADDING}, no_anchor);
  const Tensor c_P = lse_P.to(u_RD.scalar_type());
  Tensor a_P = at::exp(bounded ? -lse_P : c_P - lse_P).to(u_RD.scalar_type());
  a_P.masked_fill_(lse_P == no_anchor, 0);
  const T *c = c_P.const_data_ptr<T>(), *a = a_P.const_data_ptr<T>();
  Tensor sum_RD = at::zeros_like(u_RD);
  std::vector<Tensor> sums = sum_RD.split(walk.side());
  const Passes<T>& pass = passes<T>();
  const auto add = [&](Tensor& g_IJ, const Tile<T>& tile, int64_t row, int64_t column,
                       bool mirrored) {
    const int64_t i = first + row * walk.side(), j = column * walk.side();
    if (bounded) {
      pass.weigh(tile, a + i, a + j);
    } else {
      pass.weigh_shifted(tile, c + i, a + i, c + j, a + j);
    }
    at::cpu::addmm_(sums[row], g_IJ, walk.columns()[column], 1, 1);
    if (mirrored) {
      at::cpu::addmm_(sums[column], g_IJ.t(), walk.rows()[row], 1, 1);
    }
  };
  walk.work(u_RD, add);
  return sum_RD;
}

Tensor log_sum_exp(const Tensor& u_RD, const Tensor& u_MD, int64_t first, bool bounded) {
  return u_RD.scalar_type() == at::kDouble ? log_sum_exp_of<double>(u_RD, u_MD, first, bounded)
                                           : log_sum_exp_of<float>(u_RD, u_MD, first, bounded);
}

Tensor weighted_rows(
    const Tensor& u_RD, const Tensor& u_MD, const Tensor& lse_M, int64_t first, bool bounded) {
  return u_RD.scalar_type() == at::kDouble
      ? weighted_rows_of<double>(u_RD, u_MD, lse_M, first, bounded)
      : weighted_rows_of<float>(u_RD, u_MD, lse_M, first, bounded);
}

}  // namespace
}  // namespace ssgear

TORCH_LIBRARY(ssgear_native, library) {
  library.def("log_sum_exp(Tensor u_RD, Tensor u_MD, int first, bool bounded) -> Tensor");
  library.def(
      "weighted_rows(Tensor u_RD, Tensor u_MD, Tensor lse_M, int first, bool bounded) -> Tensor");
}

TORCH_LIBRARY_IMPL(ssgear_native, CPU, library) {
  library.impl("log_sum_exp", &ssgear::log_sum_exp);
  library.impl("weighted_rows", &ssgear::weighted_rows);
}
