#include <atomic>

#include "cuda/batch_linear.h"
#include "cuda/batch_tile.cuh"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kMaxCluster = 4;
constexpr int kMaxBurst = 4;
// Of weights, before the inputs are there. More stand before the loads of the small kernel ahead.
constexpr int kEarlySlots = 2;

cudaLaunchConfig_t ClusterConfig(cudaStream_t stream, int blocks, int threads, int cluster,
                                 cudaLaunchAttribute (&attributes)[2]) {
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = kBatchShared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return config;
}

// Clusters of so many blocks, each a multiprocessor's, that run at a time. The first GPU's answer
// stands for all: it only says how work is spread.
int ClustersAtATime(int size) {
  static std::atomic<int> known[kMaxCluster + 1];
  int count = known[size].load(std::memory_order_relaxed);
  if (count == 0) {
    const auto kernel = BatchLinearKernel<64, 1>;
    AllowShared(kernel, kBatchShared);
    cudaLaunchAttribute attributes[2] = {};
    const cudaLaunchConfig_t config = ClusterConfig(nullptr, size, 160, size, attributes);
    CUDA_CHECK(cudaOccupancyMaxActiveClusters(&count, kernel, &config));
    PENSTOCK_CHECK_GT(count, 0);
    known[size].store(count, std::memory_order_relaxed);
  }
  return count;
}

int64_t Tiles(int64_t out_features, int rows) { return (out_features + rows - 1) / rows; }

// Rows of x in a slot: whole patterns of the swizzle, the same number for each sharer.
int SlotTokens(int64_t tokens, int sharers) {
  const int64_t unit = 8 * sharers;
  return static_cast<int>((tokens + unit - 1) / unit * unit);
}

// What fits beside the other parts' sums of one's columns, 16 bytes for each thread and column.
int Slots(const BatchPlan& plan, int64_t tokens) {
  const int columns = (plan.rows / 8 + plan.split - 1) / plan.split;
  const int parts = (plan.split - 1) * columns * (tokens <= 64 ? 128 : 256) * 16;
  const int slot = (plan.rows + SlotTokens(tokens, plan.sharers)) * BatchSlab::kRowBytes;
  return std::min((kBatchRoom - parts) / slot, kBatchSlots);
}

template <int kRows, int kGroups>
void LaunchForm(cudaStream_t stream, const BatchProblem& problem, const CUtensorMap& weights,
                const CUtensorMap& activations) {
  const auto kernel = BatchLinearKernel<kRows, kGroups>;
  AllowShared(kernel, kBatchShared);
  const int size = problem.split * problem.sharers;
  const int64_t groups =
      (Tiles(problem.out_features, kRows) + problem.sharers - 1) / problem.sharers;
  const auto clusters = static_cast<int>(
      problem.split > 1 ? groups : std::min<int64_t>(groups, ClustersAtATime(size)));
  cudaLaunchAttribute attributes[2] = {};
  const cudaLaunchConfig_t config =
      ClusterConfig(stream, clusters * size, kGroups * 128 + 32, size, attributes);
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, problem, weights, activations));
}

template <int kRows>
void LaunchRows(cudaStream_t stream, const BatchProblem& problem, const CUtensorMap& weights,
                const CUtensorMap& activations) {
  if (problem.num_tokens <= 64) {
    return LaunchForm<kRows, 1>(stream, problem, weights, activations);
  }
  LaunchForm<kRows, 2>(stream, problem, weights, activations);
}

}  // namespace

bool IsBatchPlan(const BatchPlan& plan, int64_t num_tokens, int64_t out_features) {
  const int size = plan.split * plan.sharers;
  if (size != 1 && size != 2 && size != 4) return false;
  if (plan.burst < 1 || plan.burst > kMaxBurst) return false;
  if (Slots(plan, num_tokens) < 2 * plan.burst) return false;
  const int64_t groups = (Tiles(out_features, plan.rows) + plan.sharers - 1) / plan.sharers;
  return plan.split == 1 || groups <= ClustersAtATime(size);
}

BatchPlan ChooseBatchPlan(int64_t num_tokens, int64_t out_features, int64_t in_features) {
  BatchPlan best;
  double least = 0;
  for (const int rows : kBatchRows) {
    for (const int split : {1, 2, 4}) {
      const BatchPlan plan = {rows, split};
      if (!IsBatchPlan(plan, num_tokens, out_features)) continue;
      const int64_t clusters = ClustersAtATime(split);
      const int64_t rounds = (Tiles(out_features, rows) + clusters - 1) / clusters;
      // What a multiprocessor reads, x from level 2; then the sums that it exchanges.
      double cost = static_cast<double>(rounds) * static_cast<double>(in_features) / split *
                    (rows + 0.3 * static_cast<double>(num_tokens));
      if (split > 1) cost += static_cast<double>(num_tokens) * rows + 60000;
      if (best.rows == 0 || cost < least) {
        best = plan;
        least = cost;
      }
    }
  }
  // Longer pieces of a row, where several of them fit the ring.
  best.burst = best.rows <= 96 ? 4 : 2;
  while (best.burst > 1 && !IsBatchPlan(best, num_tokens, out_features)) best.burst /= 2;
  return best;
}

bool IsBatch(const Tensor& x, const Tensor& weight, const Tensor& out) {
  const int64_t features = weight.dim(1);
  return x.type() == DataType::kBF16 && weight.type() == DataType::kBF16 &&
         out.type() == DataType::kBF16 && x.dim(0) <= kBatchTokens && features % 8 == 0 &&
         features <= INT32_MAX / 2 && weight.dim(0) % 8 == 0 && weight.dim(0) <= INT32_MAX / 2 &&
         weight.is_contiguous() && IsWide(x, features) && IsWide(weight, features) &&
         IsWide(out, weight.dim(0));
}

void LaunchBatchLinear(cudaStream_t stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out, const BatchPlan& plan) {
  PENSTOCK_CHECK(IsBatch(x, weight, out));
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(1));
  PENSTOCK_CHECK_EQ(out.dim(0), x.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(1), weight.dim(0));
  PENSTOCK_CHECK(IsBatchPlan(plan, x.dim(0), weight.dim(0)));
  const int x_rows = SlotTokens(x.dim(0), plan.sharers);
  const BatchProblem problem = {Elements<Bf16>(out),
                                out.stride(0),
                                static_cast<int>(x.dim(0)),
                                static_cast<int>(weight.dim(0)),
                                static_cast<int>((x.dim(1) + kBatchSlabK - 1) / kBatchSlabK),
                                x_rows,
                                Slots(plan, x.dim(0)),
                                plan.split,
                                plan.sharers,
                                plan.burst,
                                kEarlySlots};
  const CUtensorMap weights = MakeTensorMap(Elements<const Bf16>(weight), DataType::kBF16,
                                            weight.dim(0), weight.dim(1), plan.rows, kBatchSlabK);
  const CUtensorMap activations =
      MakeTensorMap(Elements<const Bf16>(x), DataType::kBF16, x.dim(0), x.dim(1), x.stride(0),
                    x_rows / plan.sharers, kBatchSlabK);
  switch (plan.rows) {
    case 64:
      return LaunchRows<64>(stream, problem, weights, activations);
    case 96:
      return LaunchRows<96>(stream, problem, weights, activations);
    case 128:
      return LaunchRows<128>(stream, problem, weights, activations);
    case 168:
      return LaunchRows<168>(stream, problem, weights, activations);
    case 192:
      return LaunchRows<192>(stream, problem, weights, activations);
    case 224:
      return LaunchRows<224>(stream, problem, weights, activations);
    case 256:
      return LaunchRows<256>(stream, problem, weights, activations);
    default:
      PENSTOCK_CHECK(false);
  }
}

void LaunchBatchLinear(cudaStream_t stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out) {
  LaunchBatchLinear(stream, x, weight, out,
                    ChooseBatchPlan(x.dim(0), weight.dim(0), weight.dim(1)));
}

}  // namespace penstock::cuda
