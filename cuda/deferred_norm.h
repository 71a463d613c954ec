// The last step of rms_norm, left to the product behind it:
//   rms_norm(x) W^T = ((x * gain) W^T) / sqrt(mean(x^2) + eps)
// A row's factor stands before the whole sum. So x * gain, rounded to the activations' type, is all
// that the product needs to begin; who writes it leaves the squares' sums beside it, in parts.
#pragma once

#include "core/tensor/tensor.h"

namespace penstock::cuda {

struct DeferredNorm {
  Tensor squares;        // [num_tokens, parts] f32, dense, parts a multiple of 4; empty: none is
  int64_t features = 0;  // that a row's squares are of
  float eps = 0;
};

}  // namespace penstock::cuda
