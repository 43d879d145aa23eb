// Random words and uniform numbers of many counters (ssgear/kernels/philox.py) for CPUs.

#include "philox.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

namespace ssgear {
namespace {

using at::Tensor;

constexpr int64_t WORDS_A_THREAD = 16384;  // less is not worth waking a thread for

int64_t as(uint32_t word, int64_t) {
  return word;
}

float as(uint32_t word, float) {
  return uniform(word);
}

// Row i holds the first words of counters[i], each as a T.
template <typename T>
Tensor draw(int64_t key, const Tensor& counters, int64_t count, at::ScalarType type) {
  const Tensor dense = counters.contiguous();
  Tensor drawn = at::empty({dense.size(0), count}, dense.options().dtype(type));
  const int64_t* indices = dense.const_data_ptr<int64_t>();
  T* out = drawn.mutable_data_ptr<T>();
  const int64_t grain = std::max<int64_t>(1, WORDS_A_THREAD / std::max<int64_t>(count, 1));
  at::parallel_for(0, dense.size(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t first = 0; first < count; first += 4) {
        uint32_t words[4];
        philox(
            static_cast<uint64_t>(key), static_cast<uint64_t>(indices[row]),
            static_cast<uint32_t>(first / 4), words);
        for (int64_t place = first; place < std::min(first + 4, count); ++place) {
          out[row * count + place] = as(words[place - first], T{});
        }
      }
    }
  });
  return drawn;
}

Tensor philox_words(int64_t key, const Tensor& counters, int64_t count) {
  return draw<int64_t>(key, counters, count, at::kLong);
}

Tensor philox_uniform(int64_t key, const Tensor& counters, int64_t count) {
  return draw<float>(key, counters, count, at::kFloat);
}

}  // namespace
}  // namespace ssgear

TORCH_LIBRARY_FRAGMENT(ssgear_native, library) {
  library.def("philox_words(int key, Tensor counters, int count) -> Tensor");
  library.def("philox_uniform(int key, Tensor counters, int count) -> Tensor");
}

TORCH_LIBRARY_IMPL(ssgear_native, CPU, library) {
  library.impl("philox_words", ssgear::philox_words);
  library.impl("philox_uniform", ssgear::philox_uniform);
}
