// Holds the attention kernels' fixed order of sums against their fastest one: the same values up to
// rounding.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "tests/support/attention_on_gpu.h"

namespace penstock::testing {

// Both attention kernels have the fixed order of sums for some types and heads: runs
// launch(gpu, args) on a copy of `args` as it is before another order has run there, and holds it
// against that one's results, which `run` makes in args.
template <typename Launch, typename Run>
void HoldAgainstFixedOrder(const Target& target, const AttentionArgs& args, const Launch& launch,
                           const Run& run) {
  const auto clone = [](const Tensor& tensor) {
    const Tensor copy = Make(tensor.type(), tensor.shape());
    std::memcpy(Tensor(copy).raw(), tensor.raw(), static_cast<size_t>(tensor.bytes()));
    return copy;
  };
  if (!cuda::HasFixedOrder(target.type, args.heads)) return run();
  const Tensor kv = clone(args.kv);
  const Tensor out = Poisoned(args.out.shape());
  AttendOnGpu(target.type,
              {args.qkv, args.row_starts, args.context_lens, args.block_tables, args.heads, kv, out,
               args.window},
              launch);
  run();
  EXPECT_EQ(0, std::memcmp(kv.raw(), args.kv.raw(), static_cast<size_t>(kv.bytes()))) << target;
  const std::vector<float> fixed = ToVector(out);
  const std::vector<float> other = ToVector(args.out);
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < fixed.size(); ++i) {
    ASSERT_EQ(std::isnan(fixed[i]), std::isnan(other[i])) << target << ", element " << i;
    if (std::isnan(fixed[i])) continue;
    error += std::pow(static_cast<double>(fixed[i]) - other[i], 2);
    norm += std::pow(static_cast<double>(other[i]), 2);
  }
  EXPECT_LE(std::sqrt(error), 2 * Tolerance(target.type) * std::sqrt(norm)) << target;
}

}  // namespace penstock::testing
