#include "cuda/batch_linear.cuh"
#include "cuda/batch_linear.h"
#include "cuda/launch.h"
#include "cuda/skinny_linear.h"

namespace penstock::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kMaxSplit = 2;
constexpr int kMaxRows = 96;  // of a tile
static_assert(kBatchMultiple == kMaxSplit * BatchSlab::kColumns);
// Below, too many multiprocessors have nothing to do.
constexpr double kLeastFill = 0.85;

// Of the ring. More slots, more or fewer of them before the inputs are there, other bursts: the
// same within a step (tests/bench/results/2026-12-01_deferred_norms.md).
constexpr int kSlots = 12;
constexpr int kBurst = 4;

template <int N, int kSplit, bool kAdds>
void LaunchForm(cudaStream_t stream, const BatchProblem& problem, int tiles,
                const CUtensorMap& weight_map, const CUtensorMap& x_map) {
  using Tile = BatchTile<N, 1, 1>;
  const auto kernel = BatchLinearKernel<N, kSplit, kAdds>;
  const auto shared =
      static_cast<size_t>(kBatchBarriers + 1024 +
                          problem.ring.slots * (N + problem.ring.x_rows) * BatchSlab::kRowBytes);
  AllowShared(kernel, shared);
  Launch(stream, {dim3(Blocks(tiles * kSplit)), dim3(Tile::kThreads), shared, kSplit}, kernel,
         problem, weight_map, x_map);
}

template <bool kAdds>
void LaunchProblem(cudaStream_t stream, BatchProblem problem, const Tensor& x,
                   const Tensor& weight) {
  PENSTOCK_CHECK(IsBatch(x, weight));
  const BatchPlan plan = ChooseBatchPlan(weight.dim(0));
  const int64_t tokens = x.dim(0);
  const auto x_rows = static_cast<int>((tokens + 7) / 8 * 8);
  const int others = plan.split > 1 ? plan.rows / 2 * kBatchTokens * 4 : 0;
  const int slots = std::min(
      (kBatchRoom - 1024 - others) / ((plan.rows + x_rows) * BatchSlab::kRowBytes), kSlots);
  problem.ring = {static_cast<int>(tokens), x_rows, slots, kBurst, kBurst};
  problem.steps = static_cast<int>(x.dim(1) / BatchSlab::kColumns);
  const CUtensorMap weight_map =
      MakeTensorMap(Elements<const Bf16>(weight), DataType::kBF16, weight.dim(0), weight.dim(1),
                    plan.rows, BatchSlab::kColumns);
  const CUtensorMap x_map = MakeTensorMap(Elements<const Bf16>(x), DataType::kBF16, tokens,
                                          x.dim(1), x_rows, BatchSlab::kColumns);
  const auto launch = [&](auto whole, auto halves) {
    const auto form = plan.split == 1 ? whole : halves;
    form(stream, problem, static_cast<int>(weight.dim(0) / plan.rows), weight_map, x_map);
  };
  switch (plan.rows) {
    case 64:
      return launch(LaunchForm<64, 1, kAdds>, LaunchForm<64, 2, kAdds>);
    case 80:
      return launch(LaunchForm<80, 1, kAdds>, LaunchForm<80, 2, kAdds>);
    default:
      return launch(LaunchForm<96, 1, kAdds>, LaunchForm<96, 2, kAdds>);
  }
}

}  // namespace

BatchPlan ChooseBatchPlan(int64_t out_features) {
  const int multiprocessors = NumMultiprocessors();
  for (const int split : {1, kMaxSplit}) {
    for (const int rows : {64, 80, kMaxRows}) {
      const int64_t blocks = out_features / rows * split;
      if (out_features % rows == 0 && blocks % 4 == 0 && blocks <= multiprocessors &&
          static_cast<double>(blocks) >= kLeastFill * multiprocessors) {
        return {rows, split};
      }
    }
  }
  return {};
}

int64_t MaxBatchParts() { return NumMultiprocessors(); }
int64_t MaxBatchRows() { return int64_t{kMaxRows} * NumMultiprocessors(); }

bool IsBatch(const Tensor& x, const Tensor& weight) {
  const int64_t features = weight.dim(1);
  return x.type() == DataType::kBF16 && weight.type() == DataType::kBF16 &&
         x.dim(0) > kSkinnyTokens && x.dim(0) <= kBatchTokens && x.dim(1) == features &&
         features % kBatchMultiple == 0 && features <= INT32_MAX / 2 && x.is_contiguous() &&
         weight.is_contiguous() && IsWide(x, features) && IsWide(weight, features) &&
         ChooseBatchPlan(weight.dim(0)).rows > 0;
}

void LaunchBatchAddAndNorm(cudaStream_t stream, const Tensor& x, const Tensor& weight,
                           const Tensor& sum, const Tensor& gain, const Tensor& gained,
                           const Tensor& squares) {
  const int64_t rows = weight.dim(0);
  PENSTOCK_CHECK(sum.shape() == Shape({x.dim(0), rows}) && gained.shape() == sum.shape());
  PENSTOCK_CHECK_EQ(gain.dim(0), rows);
  PENSTOCK_CHECK(IsWide(sum, rows) && IsWide(gained, rows) && IsWide(gain, rows));
  PENSTOCK_CHECK(squares.shape() == Shape({x.dim(0), ChooseBatchPlan(rows).Parts(rows)}));
  PENSTOCK_CHECK(squares.is_contiguous());
  BatchProblem problem = {};
  problem.sum = Elements<float>(sum);
  problem.sum_stride = sum.stride(0);
  problem.gain = Elements<const Bf16>(gain);
  problem.squares = Elements<float>(squares);
  problem.out = Elements<Bf16>(gained);
  problem.out_stride = gained.stride(0);
  LaunchProblem<true>(stream, problem, x, weight);
}

void LaunchBatchLinear(cudaStream_t stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out, const DeferredNorm& norm) {
  PENSTOCK_CHECK(out.shape() == Shape({x.dim(0), weight.dim(0)}));
  PENSTOCK_CHECK(IsWide(out, weight.dim(0)));
  BatchProblem problem = {};
  problem.out = Elements<Bf16>(out);
  problem.out_stride = out.stride(0);
  problem.norm = MakeRowFactors(norm, x.dim(0));
  LaunchProblem<false>(stream, problem, x, weight);
}

}  // namespace penstock::cuda
