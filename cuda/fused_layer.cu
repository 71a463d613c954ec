#include "cuda/fused_layer.cuh"
#include "cuda/fused_layer.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

using Bf16 = __nv_bfloat16;

// Below, too many multiprocessors have nothing to do.
constexpr double kLeastFill = 0.8;

constexpr int64_t kCounterBytes = kFusedMeetings * kMeetingStride * 8;

int64_t Tiles(int64_t rows, int tile_rows) { return (rows + tile_rows - 1) / tile_rows; }

// Parts that k is split into, so that most multiprocessors have one.
int64_t Splits(int64_t tiles, int64_t steps, int multiprocessors) {
  return std::clamp<int64_t>(multiprocessors / tiles, 1, std::min<int64_t>(kFusedSplits, steps));
}

// Of the multiprocessors in all rounds, those with a share.
double Fill(int64_t units, int multiprocessors) {
  const int64_t rounds = (units + multiprocessors - 1) / multiprocessors;
  return static_cast<double>(units) / static_cast<double>(rounds * multiprocessors);
}

// By the fuller of both forms.
int GatedColumns(int64_t width, int multiprocessors) {
  const double of_96 = Fill(Tiles(2 * width, 192), multiprocessors);
  const double of_112 = Fill(Tiles(2 * width, 224), multiprocessors);
  return of_112 >= of_96 ? 112 : 96;
}

bool IsForm(const Tensor& tensor, int64_t columns) {
  return tensor.type() == DataType::kBF16 && tensor.is_contiguous() && tensor.dim(1) == columns &&
         columns % 64 == 0 && IsWide(tensor, columns);
}

bool FillsTheGpu(const FusedLayerArgs& args) {
  const int multiprocessors = NumMultiprocessors();
  double bytes = 0;
  double time = 0;
  const auto add = [&](const Tensor& weight, int tile_rows, bool may_split) {
    const int64_t tiles = Tiles(weight.dim(0), tile_rows);
    const int64_t splits =
        may_split ? Splits(tiles, weight.dim(1) / GatedSlab::kColumns, multiprocessors) : 1;
    const auto of_it = static_cast<double>(weight.bytes());
    bytes += of_it;
    time += of_it / Fill(tiles * splits, multiprocessors);
  };
  add(args.output, 2 * kSumColumns, true);
  add(args.gate_up, 2 * GatedColumns(args.down.dim(1), multiprocessors), false);
  add(args.down, 2 * kSumColumns, true);
  if (!args.next.empty()) add(args.next, 2 * kNextColumns, true);
  return bytes / time >= kLeastFill;
}

FusedProduct MakeProduct(const Tensor& x, int x_rows, const Tensor& weight, int tile_rows,
                         bool may_split) {
  FusedProduct product = {};
  product.weight = MakeTensorMap(Elements<const Bf16>(weight), DataType::kBF16, weight.dim(0),
                                 weight.dim(1), tile_rows, GatedSlab::kColumns);
  product.ahead = MakePlainMap(Elements<const Bf16>(weight), weight.dim(0), weight.dim(1),
                               may_split ? tile_rows : tile_rows / 2,
                               kAheadSteps * GatedSlab::kColumns);
  product.x = MakeTensorMap(Elements<const Bf16>(x), DataType::kBF16, x.dim(0), x.dim(1), x_rows,
                            GatedSlab::kColumns);
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(1));
  const int64_t tiles = Tiles(weight.dim(0), tile_rows);
  product.rows = static_cast<int>(weight.dim(0));
  product.tiles = static_cast<int>(tiles);
  product.steps = static_cast<int>(weight.dim(1) / GatedSlab::kColumns);
  product.splits =
      may_split ? static_cast<int>(Splits(tiles, product.steps, NumMultiprocessors())) : 1;
  return product;
}

template <int kTokenGroups, int kGatedColumns>
void LaunchForm(cudaStream_t stream, const FusedLayerArgs& args, FusedProblem& problem) {
  using Block = FusedBlock<kTokenGroups, kGatedColumns>;
  constexpr int kGatedRows = 2 * kGatedColumns;
  problem.products[kGateUp] =
      MakeProduct(args.normed, problem.x_rows, args.gate_up, kGatedRows, false);
  problem.products[kGateUp].weight = MakeGatedMap(Elements<const Bf16>(args.gate_up), problem.width,
                                                  args.gate_up.dim(1), kGatedRows);
  const int slot = Block::kWeightBytes + problem.x_rows * GatedSlab::kRowBytes;
  problem.slots = std::min(kFusedRoom / slot, kFusedSlots);
  const auto shared = static_cast<size_t>(kFusedHead + 1024 + problem.slots * slot);
  const auto kernel = FusedLayerKernel<kTokenGroups, kGatedColumns>;
  AllowShared(kernel, shared);
  LaunchAllAtOnce(stream, {dim3(Blocks(NumMultiprocessors())), dim3(Block::kThreads), shared},
                  kernel, problem);
}

}  // namespace

int64_t FusedLayerWorkspace() {
  return kCounterBytes + NumMultiprocessors() * 2 * kNextColumns * kFusedTokens *
                             static_cast<int64_t>(sizeof(TaggedSum));
}

bool IsFusedLayer(const FusedLayerArgs& args) {
  const int64_t tokens = args.mixed.dim(0);
  const int64_t hidden = args.residual.dim(1);
  const int64_t width = args.down.dim(1);
  if (tokens > kFusedTokens || hidden > kFusedHidden || hidden % 64 != 0) return false;
  const bool has_forms = IsForm(args.mixed, args.output.dim(1)) &&
                         IsForm(args.output, args.output.dim(1)) && IsForm(args.gate_up, hidden) &&
                         IsForm(args.down, width) && IsForm(args.gated, width) &&
                         IsForm(args.normed, hidden) && args.gain.type() == DataType::kBF16 &&
                         args.residual.type() == DataType::kF32 && IsWide(args.residual, hidden);
  if (!has_forms) return false;
  if (!args.next.empty()) {
    if (!IsForm(args.next, hidden) || args.next.dim(0) % 64 != 0) return false;
    if (args.out.type() != DataType::kBF16 || !IsWide(args.out, args.next.dim(0))) return false;
    if (Tiles(args.next.dim(0), 2 * kNextColumns) > NumMultiprocessors()) return false;
  }
  return FillsTheGpu(args);
}

void LaunchFusedLayer(cudaStream_t stream, const FusedLayerArgs& args, const Tensor& workspace) {
  const int64_t tokens = args.mixed.dim(0);
  PENSTOCK_CHECK_LE(tokens, kFusedTokens);
  PENSTOCK_CHECK_GE(workspace.bytes(), FusedLayerWorkspace());
  FusedProblem problem = {};
  problem.x_rows = static_cast<int>((tokens + 7) / 8 * 8);
  problem.products[kOutput] =
      MakeProduct(args.mixed, problem.x_rows, args.output, 2 * kSumColumns, true);
  problem.products[kDown] =
      MakeProduct(args.gated, problem.x_rows, args.down, 2 * kSumColumns, true);
  if (!args.next.empty()) {
    PENSTOCK_CHECK(!args.next_gain.empty());
    problem.products[kNext] =
        MakeProduct(args.normed, problem.x_rows, args.next, 2 * kNextColumns, true);
    problem.out = Elements<Bf16>(args.out);
    problem.out_stride = args.out.stride(0);
  }
  auto* bytes = Elements<uint8_t>(workspace);
  problem.counters = reinterpret_cast<unsigned long long*>(bytes);
#ifdef FUSED_TRACE
  problem.trace = reinterpret_cast<unsigned long long*>(bytes + FusedLayerWorkspace());
#endif
  problem.parts = reinterpret_cast<TaggedSum*>(bytes + kCounterBytes);
  problem.residual = Elements<float>(args.residual);
  problem.residual_stride = args.residual.stride(0);
  problem.gains[0] = Elements<const Bf16>(args.gain);
  problem.gains[1] = args.next_gain.empty() ? nullptr : Elements<const Bf16>(args.next_gain);
  problem.eps = args.eps;
  problem.gated = Elements<Bf16>(args.gated);
  problem.normed = Elements<Bf16>(args.normed);
  problem.num_tokens = static_cast<int>(tokens);
  problem.hidden = static_cast<int>(args.residual.dim(1));
  problem.width = static_cast<int>(args.down.dim(1));
  const bool is_wide = GatedColumns(problem.width, NumMultiprocessors()) == 112;
  if (tokens <= 64) {
    is_wide ? LaunchForm<1, 112>(stream, args, problem) : LaunchForm<1, 96>(stream, args, problem);
  } else {
    is_wide ? LaunchForm<2, 112>(stream, args, problem) : LaunchForm<2, 96>(stream, args, problem);
  }
}

}  // namespace penstock::cuda
