// Ragged and padded rows for the tests of the padded prefill kernels.
#pragma once

#include <algorithm>
#include <vector>

#include "tests/support/tensors.h"

namespace penstock::testing {

// Lengths on both sides of what a chunk of threads takes, one of them alone in its length.
inline const std::vector<int32_t> kRowLengths = {3, 1, 40, 7, 33};

// Starts of rows of these lengths. `first` is where row 0 begins: a slice of a batch's rows does
// not begin at 0.
inline std::vector<int32_t> RowStarts(const std::vector<int32_t>& lengths, int32_t first) {
  std::vector<int32_t> starts = {first};
  for (int32_t length : lengths) starts.push_back(starts.back() + length);
  return starts;
}

inline int64_t Longest(const std::vector<int32_t>& lengths) {
  return *std::max_element(lengths.begin(), lengths.end());
}

// Element (r, h, i, d) of [rows, heads, length, width].
inline float At(const Tensor& tensor, int64_t r, int64_t h, int64_t i, int64_t d) {
  const int64_t index = ((r * tensor.dim(1) + h) * tensor.dim(2) + i) * tensor.dim(3) + d;
  return static_cast<const float*>(tensor.raw())[index];
}

}  // namespace penstock::testing
