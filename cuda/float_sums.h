// Which products leave their sums in f32 for the kernel behind them, beside activations of 16 bits
// (Ops::FloatRows): those small enough for level 2 to hold them, where the bytes cost nothing. A
// rounding less, of two on the way to attention and of two on the way to the FFN's end, is what the
// likeliest token of a small model depends on (tests/bench/results/2026-11-30_linear_add.md).
// A plain function, any thread.
#pragma once

#include <cstdint>

#include "core/tensor/data_type.h"
#include "cuda/lt_linear.h"
#include "cuda/sum_order.h"

namespace penstock::cuda {

inline constexpr int64_t kFloatSumBytes = int64_t{4} << 20;

// The rows up to which a product of so many columns is f32, by its size in f32. A number of tokens
// that has an algorithm of its own: all that share one have sums of one type. 0 in the fixed order,
// in which a token's bits may not depend on the size of its step.
inline int64_t FloatSumRows(SumOrder order, DataType activations, int64_t columns) {
  if (order == SumOrder::kFixed || activations == DataType::kF32) return 0;
  const int64_t most = kFloatSumBytes / (columns * Info(DataType::kF32).block_bytes);
  int64_t rows = 0;
  while (LtLinear::TokenBucket(rows + 1) <= most) rows = LtLinear::TokenBucket(rows + 1);
  return rows;
}

}  // namespace penstock::cuda
