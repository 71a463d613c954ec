#include "cuda/gated_linear.h"
#include "cuda/gated_tile.cuh"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

using Bf16 = __nv_bfloat16;

// Rows of x in a slot: whole patterns of the swizzle, the same number for each sharer.
int SlotTokens(int64_t tokens, int sharers) {
  const int64_t unit = 8 * sharers;
  return static_cast<int>((tokens + unit - 1) / unit * unit);
}

int Slots(const GatedPlan& plan, int64_t tokens) {
  const int slot =
      (plan.rows + SlotTokens(tokens, plan.sharers)) * GatedSlab::kRowBytes * plan.slabs;
  return std::min({kGatedRoom / slot, kGatedSlots, plan.slots});
}

template <int N, int kTokenGroups, int kRowGroups, int kSlabs>
void LaunchForm(cudaStream_t stream, const GatedProblem& problem, const CUtensorMap& weight_map,
                const CUtensorMap& x_map) {
  using Tile = GatedTile<N, kTokenGroups, kRowGroups, kSlabs>;
  const auto kernel = GatedLinearKernel<N, kTokenGroups, kRowGroups, kSlabs>;
  AllowShared(kernel, kGatedShared);
  const int groups =
      (problem.width * 2 + Tile::kRows * problem.sharers - 1) / (Tile::kRows * problem.sharers);
  // Whole rounds of as few blocks as it takes.
  const int at_a_time = NumMultiprocessors() / problem.sharers;
  const int rounds = (groups + at_a_time - 1) / at_a_time;
  const int blocks = (groups + rounds - 1) / rounds * problem.sharers;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(problem.sharers), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(Tile::kThreads);
  config.dynamicSmemBytes = kGatedShared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = problem.sharers > 1 ? 2 : 1;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, problem, weight_map, x_map));
}

template <int N>
void LaunchRows(cudaStream_t stream, const GatedPlan& plan, const GatedProblem& problem,
                const CUtensorMap& weight_map, const CUtensorMap& x_map) {
  if (problem.num_tokens > 128) {
    return LaunchForm<N, 4, 1, 1>(stream, problem, weight_map, x_map);
  }
  if (problem.num_tokens > 64) {
    return LaunchForm<N, 2, 2, 1>(stream, problem, weight_map, x_map);
  }
  if (plan.slabs == 1) return LaunchForm<N, 1, 2, 1>(stream, problem, weight_map, x_map);
  LaunchForm<N, 1, 2, 2>(stream, problem, weight_map, x_map);
}

}  // namespace

bool IsGatedPlan(const GatedPlan& plan, int64_t num_tokens) {
  const int row_groups = num_tokens > 128 ? 1 : 2;
  return (plan.rows == 96 * row_groups || plan.rows == 112 * row_groups) &&
         (plan.slabs == 1 || (plan.slabs == 2 && num_tokens <= 64)) &&
         (plan.sharers == 1 || plan.sharers == 2) && plan.early >= 0 &&
         Slots(plan, num_tokens) >= 2;
}

GatedPlan ChooseGatedPlan(int64_t num_tokens, int64_t width) {
  const int scale = num_tokens > 128 ? 1 : 2;
  // Fewer rows where that needs no more rounds.
  const auto rounds = [&](int rows) {
    const int64_t blocks = NumMultiprocessors();
    return ((2 * width + rows - 1) / rows + blocks - 1) / blocks;
  };
  GatedPlan plan;
  plan.rows = scale * (rounds(scale * 96) <= rounds(scale * 112) ? 96 : 112);
  return plan;
}

bool IsGated(const Tensor& x, const Tensor& weight, const Tensor& out) {
  const int64_t features = weight.dim(1);
  const int64_t width = out.dim(1);
  return x.type() == DataType::kBF16 && weight.type() == DataType::kBF16 &&
         out.type() == DataType::kBF16 && x.dim(0) <= kGatedTokens && features % kGatedSlabK == 0 &&
         features <= INT32_MAX / 2 && width % 8 == 0 && width <= INT32_MAX / 4 &&
         weight.is_contiguous() && x.is_contiguous() && IsWide(x, features) &&
         IsWide(weight, features) && IsWide(out, width);
}

void LaunchGatedBatch(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
                      const GatedPlan& plan) {
  PENSTOCK_CHECK(IsGated(x, weight, out));
  PENSTOCK_CHECK(IsGatedPlan(plan, x.dim(0)));
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(1));
  PENSTOCK_CHECK_EQ(out.dim(0), x.dim(0));
  PENSTOCK_CHECK_EQ(2 * out.dim(1), weight.dim(0));
  const int x_rows = SlotTokens(x.dim(0), plan.sharers);
  const int step = kGatedSlabK * plan.slabs;
  const int slots = Slots(plan, x.dim(0));
  const GatedProblem problem = {Elements<Bf16>(out),
                                out.stride(0),
                                static_cast<int>(x.dim(0)),
                                static_cast<int>(out.dim(1)),
                                static_cast<int>((x.dim(1) + step - 1) / step),
                                x_rows,
                                slots,
                                plan.sharers,
                                std::min(plan.early, slots),
                                plan.warms ? -1 : 0};
  const CUtensorMap weight_map =
      MakeGatedMap(Elements<const Bf16>(weight), out.dim(1), weight.dim(1), plan.rows, plan.slabs);
  const CUtensorMap x_map = MakeTensorMap(Elements<const Bf16>(x), DataType::kBF16, x.dim(0),
                                          x.dim(1), x_rows / plan.sharers, kGatedSlabK);
  if (plan.rows % 112 == 0) {
    return LaunchRows<112>(stream, plan, problem, weight_map, x_map);
  }
  LaunchRows<96>(stream, plan, problem, weight_map, x_map);
}

}  // namespace penstock::cuda
