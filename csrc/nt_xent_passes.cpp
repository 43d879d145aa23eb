// The passes for every instruction set.

#include "nt_xent_passes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#define SSGEAR_BODY "nt_xent_passes.inl"
#include "levels.inl"

namespace ssgear {

template <typename T>
const Passes<T>& passes_for([[maybe_unused]] const char* capability) {
#if defined(__x86_64__)
  static constexpr Passes<T> avx512_passes = avx512::passes<T>(), avx2_passes = avx2::passes<T>();
  if (std::strcmp(capability, "AVX512") == 0) {
    return avx512_passes;
  }
  if (std::strcmp(capability, "AVX2") == 0) {
    return avx2_passes;
  }
#endif
  static constexpr Passes<T> baseline_passes = baseline::passes<T>();
  return baseline_passes;
}

template const Passes<float>& passes_for<float>(const char*);
template const Passes<double>& passes_for<double>(const char*);

}  // namespace ssgear
