// The passes, compiled for AVX-512, for AVX2, and for whatever the compiler takes by default; the
// choice is made at run time, so that one library serves every CPU of an architecture.

#include "nt_xent_passes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#define SSGEAR_LEVEL baseline
#define SSGEAR_BYTES 16
#define SSGEAR_TARGET
#include "nt_xent_passes.inl"

#if defined(__x86_64__)
#define SSGEAR_LEVEL avx2
#define SSGEAR_BYTES 32
#define SSGEAR_TARGET __attribute__((target("avx2,fma")))
#include "nt_xent_passes.inl"

#define SSGEAR_LEVEL avx512
#define SSGEAR_BYTES 64
#define SSGEAR_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma")))
#include "nt_xent_passes.inl"
#endif

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
