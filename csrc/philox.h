// Philox4x32-10 (Salmon et al., SC 2011), the same words as ssgear/kernels/philox.py.
#pragma once

#include <cstdint>

namespace ssgear {

// Writes the four words of counter (index, block, 0).
inline void philox(uint64_t key, uint64_t index, uint32_t block, uint32_t* words) {
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32), c2 = block, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(b);
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

// A word as a multiple of 2^-24 in [0, 1).
inline float uniform(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

}  // namespace ssgear
