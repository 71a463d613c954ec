#include "cuda/gated_linear.h"
#include "cuda/gated_tile.cuh"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

using Bf16 = __nv_bfloat16;

// Tokens of a block, of those of 224 rows and more than 192 tokens half of them; in whole patterns
// of the swizzle.
bool IsShared(const GatedPlan& plan, int64_t tokens) { return plan.rows == 224 && tokens > 192; }
int BlockTokens(const GatedPlan& plan, int64_t tokens) {
  return IsShared(plan, tokens) ? 128 : static_cast<int>((tokens + 7) / 8 * 8);
}

int SlotBytes(const GatedPlan& plan, int64_t tokens) {
  return (plan.rows + BlockTokens(plan, tokens)) * GatedSlab::kRowBytes;
}
int Slots(const GatedPlan& plan, int64_t tokens) {
  return std::min({kGatedRoom / SlotBytes(plan, tokens), kGatedSlots, plan.slots});
}

template <int N, int kTokenGroups, int kRowGroups = 1, int kSharers = 1>
void LaunchForm(cudaStream_t stream, const GatedProblem& problem, const CUtensorMap& weight_map,
                const CUtensorMap& x_map) {
  using Tile = GatedTile<N, kTokenGroups, kRowGroups, kSharers>;
  const auto kernel = GatedLinearKernel<N, kTokenGroups, kRowGroups, kSharers>;
  const int shared =
      kGatedBarriers + 1024 + problem.slots * (Tile::kRows + problem.x_rows) * GatedSlab::kRowBytes;
  AllowShared(kernel, static_cast<size_t>(shared));
  // Whole rounds of as few blocks as it takes.
  const int tiles = (problem.width * 2 + Tile::kRows - 1) / Tile::kRows;
  const int at_a_time = NumMultiprocessors() / kSharers;
  const int rounds = (tiles + at_a_time - 1) / at_a_time;
  const int blocks = (tiles + rounds - 1) / rounds * kSharers;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {kSharers, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(Tile::kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = kSharers > 1 ? 2 : 1;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, problem, weight_map, x_map));
}

}  // namespace

bool IsGatedPlan(const GatedPlan& plan, int64_t num_tokens) {
  const bool has_form = num_tokens <= 128 ? plan.rows == 176 || plan.rows == 192 || plan.rows == 224
                        : num_tokens <= 192 ? plan.rows == 112 || plan.rows == 176
                                            : plan.rows == 112 || plan.rows == 224;
  return has_form && plan.early >= 0 && Slots(plan, num_tokens) >= 2;
}

GatedPlan ChooseGatedPlan(int64_t num_tokens, int64_t width) {
  const auto rounds = [&](int rows) {
    const int64_t blocks = NumMultiprocessors();
    return ((2 * width + rows - 1) / rows + blocks - 1) / blocks;
  };
  GatedPlan plan;
  plan.rows = rounds(176) <= rounds(224) ? 176 : 224;
  if (num_tokens > 192 || (num_tokens > 128 && plan.rows == 224)) plan.rows = 112;
  return plan;
}

bool IsGated(const Tensor& x, const Tensor& weight, const Tensor& out) {
  const int64_t features = weight.dim(1);
  const int64_t width = out.dim(1);
  return x.type() == DataType::kBF16 && weight.type() == DataType::kBF16 &&
         out.type() == DataType::kBF16 && x.dim(0) <= kGatedTokens &&
         features % GatedSlab::kColumns == 0 && features <= INT32_MAX / 2 && width % 8 == 0 &&
         width <= INT32_MAX / 4 && weight.is_contiguous() && x.is_contiguous() &&
         IsWide(x, features) && IsWide(weight, features) && IsWide(out, width);
}

void LaunchGatedBatch(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
                      const GatedPlan& plan) {
  const int64_t tokens = x.dim(0);
  PENSTOCK_CHECK(IsGated(x, weight, out));
  PENSTOCK_CHECK(IsGatedPlan(plan, tokens));
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(1));
  PENSTOCK_CHECK_EQ(out.dim(0), tokens);
  PENSTOCK_CHECK_EQ(2 * out.dim(1), weight.dim(0));
  const int x_rows = BlockTokens(plan, tokens);
  const int slots = Slots(plan, tokens);
  const auto steps = static_cast<int>(x.dim(1) / GatedSlab::kColumns);
  const GatedProblem problem = {Elements<Bf16>(out),
                                out.stride(0),
                                static_cast<int>(tokens),
                                static_cast<int>(out.dim(1)),
                                steps,
                                x_rows,
                                slots,
                                std::min({plan.early, slots, steps}),
                                plan.warms ? -1 : 0};
  const CUtensorMap weight_map =
      MakeGatedMap(Elements<const Bf16>(weight), out.dim(1), weight.dim(1),
                   IsShared(plan, tokens) ? plan.rows / 2 : plan.rows);
  const CUtensorMap x_map = MakeTensorMap(Elements<const Bf16>(x), DataType::kBF16, tokens,
                                          x.dim(1), x_rows, GatedSlab::kColumns);
  const auto launch = [&](auto form) { form(stream, problem, weight_map, x_map); };
  switch (plan.rows) {
    case 112:
      return launch(tokens <= 192 ? LaunchForm<112, 3> : LaunchForm<112, 4>);
    case 176:
      if (tokens <= 128) return launch(tokens <= 64 ? LaunchForm<176, 1> : LaunchForm<176, 2>);
      return launch(LaunchForm<176, 3>);
    case 192:
      return launch(tokens <= 64 ? LaunchForm<96, 1, 2> : LaunchForm<96, 2, 2>);
    default:
      if (tokens <= 128)
        return launch(tokens <= 64 ? LaunchForm<112, 1, 2> : LaunchForm<112, 2, 2>);
      return launch(LaunchForm<224, 2, 1, 2>);
  }
}

}  // namespace penstock::cuda
