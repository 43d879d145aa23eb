// The augmentation for every instruction set.
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

#define SSGEAR_BODY "augment_view.inl"
#include "levels.inl"

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
