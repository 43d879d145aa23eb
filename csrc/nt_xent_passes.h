// Elementwise passes over one tile of similarities, in one version for each instruction set.
//
// A tile is stored by rows, `stride` numbers apart. Its width is a multiple of PADDING; columns
// that do not exist and the similarity of a row with itself hold minus infinity: exp gives 0.
#pragma once

#include <cstdint>

namespace ssgear {

// Tiles, and what is read along their columns, are padded to this many numbers: the widest vector.
constexpr int64_t PADDING = 16;

template <typename T>
struct Tile {
  T* values;
  int64_t rows;
  int64_t columns;
  int64_t stride;
};

template <typename T>
struct Passes {
  // Adds sum_j exp(s_ij) to row_sums, and sum_i exp(s_ij) to column_sums unless it is null.
  void (*add_exponentials)(const Tile<T>&, double* row_sums, double* column_sums);

  // The same for numbers of any size: brings log sum exp to the totals, which are logarithms.
  void (*add_log_exponentials)(const Tile<T>&, double* row_totals, double* column_totals);

  // s_ij becomes exp(s_ij) (a_i + a_j).
  void (*weigh)(const Tile<T>&, const T* a_rows, const T* a_columns);

  // s_ij becomes exp(s_ij - c_i) a_i + exp(s_ij - c_j) a_j.
  void (*weigh_shifted)(
      const Tile<T>&, const T* c_rows, const T* a_rows, const T* c_columns, const T* a_columns);
};

// The version for a CPU capability as PyTorch names it (AVX512, AVX2, DEFAULT, ...).
template <typename T>
const Passes<T>& passes_for(const char* capability);

}  // namespace ssgear
