#include "core/sched/layer_split.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/base/check.h"
#include "core/base/kv_block.h"

namespace penstock {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr int64_t kMib = 1 << 20;

// What the stages of every possible split would be.
class Stages {
 public:
  Stages(const ModelConfig& config, const ModelBytes& bytes, const SplitOptions& options)
      : config_(config), bytes_(bytes), options_(options), sums_(bytes.layers.size() + 1, 0) {
    std::partial_sum(bytes.layers.begin(), bytes.layers.end(), sums_.begin() + 1);
  }

  StageSplit Make(LayerRange layers) const {
    StageSplit stage;
    stage.layers = layers;
    StageWork& work = stage.work;
    work.weight_bytes =
        sums_[static_cast<size_t>(layers.last)] - sums_[static_cast<size_t>(layers.first)];
    const int64_t layer_weights = config_.hidden_size * (config_.qkv_size() + config_.q_size() +
                                                         3 * config_.intermediate_size);
    work.flops_per_token = 2 * layer_weights * layers.count();
    work.kv_bytes_per_position = bytes_.kv_block * layers.count() / kBlockSize;
    work.flops_per_pair = 4 * config_.q_size() * layers.count();
    const bool is_first = layers.first == 0;
    const bool is_last = layers.last == config_.num_layers;
    const bool tied = bytes_.head == 0;
    stage.weight_bytes = work.weight_bytes;
    if (is_last) {
      work.weight_bytes += bytes_.norm;
      work.head_bytes = tied ? bytes_.embedding : bytes_.head;
      work.head_flops_per_sample = 2 * config_.hidden_size * config_.vocab_size;
      stage.weight_bytes += bytes_.norm + bytes_.head;
    }
    // Of the embedding table a step reads a few rows only; but it is there.
    if (is_first || (is_last && tied)) stage.weight_bytes += bytes_.embedding;
    stage.block_bytes = bytes_.kv_block * layers.count();
    stage.step_ns = StageCost(work, options_.rates)
                        .PredictNs(DecodeShape(options_.rows, options_.rows * options_.context));
    return stage;
  }

  // The bytes that this stage has for KV; nothing: unknown. Below 0: not even the weights fit.
  std::optional<int64_t> KvRoom(const StageSplit& stage, size_t index) const {
    const int64_t memory = options_.memory.empty() ? 0 : options_.memory[index];
    std::optional<int64_t> room;
    if (memory > 0) room = memory - stage.weight_bytes - options_.workspace;
    if (options_.kv_memory > 0) room = std::min(room.value_or(INT64_MAX), options_.kv_memory);
    return room;
  }

  bool Fits(const StageSplit& stage, size_t index) const {
    const std::optional<int64_t> room = KvRoom(stage, index);
    return !room.has_value() || *room >= KvNeed(stage);
  }

  // The memory with which a stage would fit, and what of it is for KV.
  int64_t KvNeed(const StageSplit& stage) const { return options_.min_blocks * stage.block_bytes; }
  int64_t Need(const StageSplit& stage) const {
    return stage.weight_bytes + options_.workspace + KvNeed(stage);
  }

 private:
  const ModelConfig& config_;
  const ModelBytes& bytes_;
  const SplitOptions& options_;
  std::vector<int64_t> sums_;  // [i]: bytes of the first i layers
};

// The cuts for which the stages' costs, `combine`d from the first stage on, are least; of equal
// ones always the same. `cost` is of a stage and its layers, kNever
// for what may not be; nothing: all splits have such a stage.
template <typename Cost, typename Combine>
std::optional<std::vector<LayerRange>> BestCuts(int64_t num_layers, int64_t num_stages,
                                                const Cost& cost, const Combine& combine) {
  const auto layers = static_cast<size_t>(num_layers);
  const auto stages = static_cast<size_t>(num_stages);
  std::vector<double> best(layers + 1, kNever);  // [i]: of the first layers, up to i
  best[0] = 0;
  std::vector<std::vector<size_t>> from(stages, std::vector<size_t>(layers + 1, 0));
  for (size_t stage = 0; stage < stages; ++stage) {
    std::vector<double> next(layers + 1, kNever);
    const size_t after = stages - 1 - stage;  // each of these needs a layer too
    for (size_t last = stage + 1; last + after <= layers; ++last) {
      if (after == 0 && last != layers) continue;
      for (size_t first = stage; first < last; ++first) {
        if (best[first] == kNever) continue;
        const double sum = combine(
            best[first],
            cost(stage, LayerRange{static_cast<int64_t>(first), static_cast<int64_t>(last)}));
        if (sum >= next[last]) continue;
        next[last] = sum;
        from[stage][last] = first;
      }
    }
    best = std::move(next);
  }
  if (best[layers] == kNever) return std::nullopt;
  std::vector<LayerRange> cuts(stages);
  size_t last = layers;
  for (size_t stage = stages; stage-- > 0;) {
    const size_t first = from[stage][last];
    cuts[stage] = {static_cast<int64_t>(first), static_cast<int64_t>(last)};
    last = first;
  }
  return cuts;
}

double Greater(double a, double b) { return std::max(a, b); }
double Sum(double a, double b) { return a + b; }

std::string Mib(int64_t bytes) { return absl::StrCat((bytes + kMib - 1) / kMib, " MiB"); }

absl::Status DoesNotFit(const Stages& stages, const std::string& what, const StageSplit& largest) {
  return absl::ResourceExhaustedError(absl::StrCat(
      what, " would need ", Mib(stages.Need(largest)), ", ", Mib(stages.KvNeed(largest)),
      " of it for keys and values: give it more memory, ", "or fewer layers by more stages"));
}

absl::StatusOr<std::vector<LayerRange>> ChooseLayers(const Stages& stages, int64_t num_layers,
                                                     int64_t num_stages) {
  const auto time = [&](size_t index, LayerRange layers) {
    const StageSplit stage = stages.Make(layers);
    return stages.Fits(stage, index) ? static_cast<double>(stage.step_ns) : kNever;
  };
  const auto fastest = BestCuts(num_layers, num_stages, time, Greater);
  if (!fastest.has_value()) {
    const auto need = [&](size_t, LayerRange layers) {
      return static_cast<double>(stages.Need(stages.Make(layers)));
    };
    const auto smallest = *BestCuts(num_layers, num_stages, need, Greater);
    const LayerRange largest =
        *std::max_element(smallest.begin(), smallest.end(),
                          [&](LayerRange a, LayerRange b) { return need(0, a) < need(0, b); });
    return DoesNotFit(stages,
                      absl::StrCat("the model does not fit into ", num_stages,
                                   num_stages == 1 ? " stage; it" : " stages; the largest"),
                      stages.Make(largest));
  }
  double slowest = 0;
  for (size_t i = 0; i < fastest->size(); ++i) slowest = std::max(slowest, time(i, (*fastest)[i]));
  const auto square = [&](size_t index, LayerRange layers) {
    const double ns = time(index, layers);
    return ns <= slowest ? ns * ns : kNever;
  };
  return *BestCuts(num_layers, num_stages, square, Sum);
}

absl::StatusOr<std::vector<LayerRange>> TakeLayers(const Stages& stages, int64_t num_layers,
                                                   const std::vector<int64_t>& counts) {
  std::vector<LayerRange> cuts;
  int64_t first = 0;
  for (const int64_t count : counts) {
    if (count < 1) return absl::InvalidArgumentError("every stage must have a layer at least");
    // Beside the sum that is wanted, none can overflow.
    const int64_t last = first + std::min(count, num_layers + 1);
    cuts.push_back({first, last});
    first = last;
    if (last > num_layers) break;
  }
  if (first != num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("the stages' layers, ", absl::StrJoin(counts, " + "), ", are ",
                     first > num_layers ? "more" : "fewer", " than the model's ", num_layers,
                     ": give numbers that add up to that"));
  }
  for (size_t i = 0; i < cuts.size(); ++i) {
    const StageSplit stage = stages.Make(cuts[i]);
    if (stages.Fits(stage, i)) continue;
    return DoesNotFit(stages, absl::StrCat("stage ", i, " of ", counts[i], " layers"), stage);
  }
  return cuts;
}

}  // namespace

int64_t LayerSplit::slowest_ns() const {
  int64_t slowest = 0;
  for (const StageSplit& stage : stages) slowest = std::max(slowest, stage.step_ns);
  return slowest;
}

PipelineCost LayerSplit::Cost(const MachineRates& rates) const {
  std::vector<StageCost> costs;
  for (const StageSplit& stage : stages) costs.emplace_back(stage.work, rates);
  return PipelineCost(std::move(costs));
}

absl::StatusOr<LayerSplit> SplitLayers(const ModelConfig& config, const ModelBytes& bytes,
                                       const SplitOptions& options) {
  PENSTOCK_CHECK_EQ(static_cast<int64_t>(bytes.layers.size()), config.num_layers);
  const int64_t num_stages = options.num_stages;
  if (num_stages < 1 || num_stages > config.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat("a model of ", config.num_layers,
                                                   " layers cannot be split into ", num_stages,
                                                   " stages: ask for 1 to ", config.num_layers));
  }
  PENSTOCK_CHECK(options.memory.empty() ||
                 static_cast<int64_t>(options.memory.size()) == num_stages);
  const Stages stages(config, bytes, options);
  std::vector<LayerRange> cuts;
  if (options.layers.empty()) {
    PENSTOCK_ASSIGN_OR_RETURN(cuts, ChooseLayers(stages, config.num_layers, num_stages));
  } else if (static_cast<int64_t>(options.layers.size()) != num_stages) {
    return absl::InvalidArgumentError(absl::StrCat("layers are given for ", options.layers.size(),
                                                   " stages, but there are ", num_stages,
                                                   ": give a number for each"));
  } else {
    PENSTOCK_ASSIGN_OR_RETURN(cuts, TakeLayers(stages, config.num_layers, options.layers));
  }

  LayerSplit split;
  for (size_t i = 0; i < cuts.size(); ++i) {
    StageSplit& stage = split.stages.emplace_back(stages.Make(cuts[i]));
    const std::optional<int64_t> room = stages.KvRoom(stage, i);
    if (!room.has_value()) continue;
    stage.max_blocks = *room / stage.block_bytes;
    split.num_blocks =
        split.num_blocks == 0 ? stage.max_blocks : std::min(split.num_blocks, stage.max_blocks);
  }
  for (size_t i = 0; i < cuts.size(); ++i) {
    StageSplit& stage = split.stages[i];
    if (stage.max_blocks == 0) continue;
    const int64_t memory = options.memory.empty() ? 0 : options.memory[i];
    const int64_t room =
        memory > 0 ? memory - stage.weight_bytes - options.workspace : options.kv_memory;
    stage.unused_bytes = room - split.num_blocks * stage.block_bytes;
  }
  return split;
}

absl::StatusOr<std::vector<int64_t>> ParseLayerCounts(std::string_view text) {
  std::vector<int64_t> counts;
  for (const absl::string_view part : absl::StrSplit(Abs(text), ',')) {
    int64_t count = 0;
    if (!absl::SimpleAtoi(part, &count) || count < 1) {
      return absl::InvalidArgumentError(
          "give the layers of each stage, numbers from 1 with commas between them, such as "
          "10,12,8");
    }
    counts.push_back(count);
  }
  return counts;
}

}  // namespace penstock
