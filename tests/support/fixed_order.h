// Holds what the attention kernels make in several ways against each other: the same values up to
// rounding.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tests/support/attention_on_gpu.h"

namespace penstock::testing {

inline Tensor Clone(const Tensor& tensor) {
  const Tensor copy = Make(tensor.type(), tensor.shape());
  std::memcpy(Tensor(copy).raw(), tensor.raw(), static_cast<size_t>(tensor.bytes()));
  return copy;
}

// Two outputs and the caches after them.
inline void ExpectNear(const Target& target, const Tensor& out, const Tensor& kv,
                       const Tensor& other_out, const Tensor& other_kv) {
  EXPECT_EQ(0, std::memcmp(kv.raw(), other_kv.raw(), static_cast<size_t>(kv.bytes()))) << target;
  const std::vector<float> a = ToVector(out);
  const std::vector<float> b = ToVector(other_out);
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::isnan(a[i]), std::isnan(b[i])) << target << ", element " << i;
    if (std::isnan(a[i])) continue;
    error += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  EXPECT_LE(std::sqrt(error), 2 * Tolerance(target.type) * std::sqrt(norm)) << target;
}

// Both attention kernels have the fixed order of sums for some types and heads: runs
// launch(gpu, args) on a copy of `args` as it is before another order has run there, and holds it
// against that one's results, which `run` makes in args.
template <typename Launch, typename Run>
void HoldAgainstFixedOrder(const Target& target, const AttentionArgs& args, const Launch& launch,
                           const Run& run) {
  if (!cuda::HasFixedOrder(target.type, args.heads)) return run();
  const Tensor kv = Clone(args.kv);
  const Tensor out = Poisoned(args.out.shape());
  AttendOnGpu(target.type,
              {args.qkv, args.row_starts, args.context_lens, args.block_tables, args.heads, kv, out,
               args.window},
              launch);
  run();
  ExpectNear(target, out, kv, args.out, args.kv);
}

// The same of a decode step behind whose rows those of padding make it one of `rows`, which another
// kernel may take.
template <typename Launch, typename Run>
void HoldAgainstPadded(const Target& target, const AttentionArgs& args, int64_t rows,
                       const Launch& launch, const Run& run) {
  const int64_t own = args.context_lens.dim(0);
  if (own >= rows) return run();
  const auto padded = [&](const Tensor& tensor) {
    const Tensor copy = Make(tensor.type(), {rows, tensor.rank() == 1 ? 1 : tensor.dim(1)});
    std::memset(Tensor(copy).raw(), 0, static_cast<size_t>(copy.bytes()));
    std::memcpy(Tensor(copy).raw(), tensor.raw(), static_cast<size_t>(tensor.bytes()));
    return tensor.rank() == 1 ? copy.Reshape({rows}) : copy;
  };
  const Tensor kv = Clone(args.kv);
  const Tensor out = Poisoned({rows, args.out.dim(1)});
  const Tensor qkv = padded(args.qkv);
  const Tensor lens = padded(args.context_lens);
  const Tensor tables = padded(args.block_tables);
  AttendOnGpu(target.type, {qkv, args.row_starts, lens, tables, args.heads, kv, out, args.window},
              launch);
  run();
  ExpectNear(target, out.Slice(0, own), kv, args.out, args.kv);
  for (const float value : ToVector(out.Slice(own, rows - own))) ASSERT_TRUE(std::isnan(value));
}

}  // namespace penstock::testing
