// top_k: the k largest of each row, largest first, the lower index first among equals. NaN counts
// as -infinity.
// x       [num_rows, width] f32
// values  [num_rows, k] f32, k <= width
// indices [num_rows, k] i32
// Bytes: 4 * num_rows * width.
#pragma once

#include <span>

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void TopK(ThreadPool& pool, const Tensor& x, const Tensor& values, const Tensor& indices);

// One row: the indices of its k largest, in that order. REQUIRES: 0 < k <= row.size().
// The span is valid until the calling thread's next call.
std::span<const int32_t> TopKRow(std::span<const float> row, int64_t k);

}  // namespace penstock::cpu
