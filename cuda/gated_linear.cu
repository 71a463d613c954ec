#include "cuda/gated_linear.h"
#include "cuda/gated_tile.cuh"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

using Bf16 = __nv_bfloat16;

// Slots whose weights are asked for before the inputs are there: none, two or five are the same
// within a step; the whole ring would stand before the loads of the kernel ahead.
constexpr int kEarlySlots = 2;
// Below, too many multiprocessors have nothing to do: cuBLASLt's product is faster.
constexpr double kLeastFill = 0.85;

int RowsOfX(int64_t tokens) { return static_cast<int>((tokens + 7) / 8 * 8); }

int Slots(const GatedPlan& plan, int64_t tokens) {
  const int slot = (plan.rows + RowsOfX(tokens)) * BatchSlab::kRowBytes;
  return std::min({kBatchRoom / slot, kBatchSlots, plan.slots});
}

int Rounds(int64_t width, int rows, int multiprocessors) {
  const int64_t tiles = (2 * width + rows - 1) / rows;
  return static_cast<int>((tiles + multiprocessors - 1) / multiprocessors);
}
// Of the multiprocessors in all rounds, those with a tile.
double Fill(int64_t width, int rows, int multiprocessors) {
  const int64_t tiles = (2 * width + rows - 1) / rows;
  return static_cast<double>(tiles) / Rounds(width, rows, multiprocessors) / multiprocessors;
}

template <int N, int kTokenGroups, int kRowGroups = 1>
void LaunchForm(cudaStream_t stream, const GatedProblem& problem, const CUtensorMap& weight_map,
                const CUtensorMap& x_map) {
  using Tile = BatchTile<N, kTokenGroups, kRowGroups>;
  const auto kernel = GatedLinearKernel<N, kTokenGroups, kRowGroups>;
  const auto shared = static_cast<size_t>(kBatchBarriers + 1024 +
                                          problem.ring.slots * (Tile::kRows + problem.ring.x_rows) *
                                              BatchSlab::kRowBytes);
  AllowShared(kernel, shared);
  // Whole rounds of as few blocks as it takes.
  const int tiles = (2 * problem.width + Tile::kRows - 1) / Tile::kRows;
  const int rounds = Rounds(problem.width, Tile::kRows, NumMultiprocessors());
  Launch(stream, {dim3(Blocks(tiles, rounds)), dim3(Tile::kThreads), shared}, kernel, problem,
         weight_map, x_map);
}

}  // namespace

bool IsGatedPlan(const GatedPlan& plan, int64_t num_tokens) {
  const bool has_form = num_tokens <= 128   ? plan.rows == 192 || plan.rows == 224
                        : num_tokens <= 192 ? plan.rows == 112 || plan.rows == 176
                                            : plan.rows == 112;
  return has_form && Slots(plan, num_tokens) >= 2;
}

GatedPlan ChooseGatedPlan(int64_t num_tokens, int64_t width) {
  const int multiprocessors = NumMultiprocessors();
  double best = 0;
  GatedPlan plan;
  for (const int rows : {112, 176, 192, 224}) {
    if (!IsGatedPlan({rows}, num_tokens)) continue;
    const double fill = Fill(width, rows, multiprocessors);
    if (fill > best) plan.rows = rows;
    best = std::max(best, fill);
  }
  if (plan.rows == 224) plan.slots = 5;
  return plan;
}

bool IsGatedFast(const Tensor& x, const Tensor& out) {
  const int64_t tokens = x.dim(0);
  const int64_t width = out.dim(1);
  if (tokens <= 16 || tokens > kGatedTokens) return false;
  return Fill(width, ChooseGatedPlan(tokens, width).rows, NumMultiprocessors()) >= kLeastFill;
}

bool IsGated(const Tensor& x, const Tensor& weight, const Tensor& out) {
  const int64_t features = weight.dim(1);
  const int64_t width = out.dim(1);
  return x.type() == DataType::kBF16 && weight.type() == DataType::kBF16 &&
         out.type() == DataType::kBF16 && x.dim(0) <= kGatedTokens &&
         features % BatchSlab::kColumns == 0 && features <= INT32_MAX / 2 && width % 8 == 0 &&
         width <= INT32_MAX / 4 && weight.is_contiguous() && x.is_contiguous() &&
         IsWide(x, features) && IsWide(weight, features) && IsWide(out, width);
}

void LaunchGatedBatch(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
                      const GatedPlan& plan, const DeferredNorm& norm) {
  const int64_t tokens = x.dim(0);
  PENSTOCK_CHECK(IsGated(x, weight, out));
  PENSTOCK_CHECK(IsGatedPlan(plan, tokens));
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(1));
  PENSTOCK_CHECK_EQ(out.dim(0), tokens);
  PENSTOCK_CHECK_EQ(2 * out.dim(1), weight.dim(0));
  const int slots = Slots(plan, tokens);
  const auto steps = static_cast<int>(x.dim(1) / BatchSlab::kColumns);
  const GatedProblem problem = {
      {static_cast<int>(tokens), RowsOfX(tokens), slots, std::min({kEarlySlots, slots, steps}), 1},
      Elements<Bf16>(out),
      out.stride(0),
      static_cast<int>(out.dim(1)),
      steps,
      MakeRowFactors(norm, tokens)};
  const CUtensorMap weight_map =
      MakeGatedMap(Elements<const Bf16>(weight), out.dim(1), weight.dim(1), plan.rows);
  const CUtensorMap x_map = MakeTensorMap(Elements<const Bf16>(x), DataType::kBF16, tokens,
                                          x.dim(1), problem.ring.x_rows, BatchSlab::kColumns);
  const auto launch = [&](auto form) { form(stream, problem, weight_map, x_map); };
  switch (plan.rows) {
    case 112:
      return launch(tokens <= 192 ? LaunchForm<112, 3> : LaunchForm<112, 4>);
    case 176:
      return launch(LaunchForm<176, 3>);
    case 192:
      return launch(tokens <= 64 ? LaunchForm<96, 1, 2> : LaunchForm<96, 2, 2>);
    default:
      return launch(tokens <= 64 ? LaunchForm<112, 1, 2> : LaunchForm<112, 2, 2>);
  }
}

}  // namespace penstock::cuda
