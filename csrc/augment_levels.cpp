// The augmentation, compiled for AVX-512, for AVX2, and for whatever the compiler takes by default;
// the choice is made at run time, so that one library serves every CPU of an architecture.
//
// Products are rounded before they are added: views are the same bits on all of them.

#include "augment.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("O3", "fp-contract=off")
#endif

#define SSGEAR_LEVEL baseline
#define SSGEAR_BYTES 16
#define SSGEAR_TARGET
#include "augment_resize.inl"
#include "augment_colour.inl"
#include "augment_view.inl"

#if defined(__x86_64__)
#define SSGEAR_LEVEL avx2
#define SSGEAR_BYTES 32
#define SSGEAR_TARGET __attribute__((target("avx2,fma")))
#include "augment_resize.inl"
#include "augment_colour.inl"
#include "augment_view.inl"

#define SSGEAR_LEVEL avx512
#define SSGEAR_BYTES 64
#define SSGEAR_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma")))
#include "augment_resize.inl"
#include "augment_colour.inl"
#include "augment_view.inl"
#endif

namespace ssgear {

ViewMaker view_maker_for([[maybe_unused]] const char* capability) {
#if defined(__x86_64__)
  if (std::strcmp(capability, "AVX512") == 0) {
    return avx512::make_view;
  }
  if (std::strcmp(capability, "AVX2") == 0) {
    return avx2::make_view;
  }
#endif
  return baseline::make_view;
}

}  // namespace ssgear
