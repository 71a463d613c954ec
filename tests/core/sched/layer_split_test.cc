#include "core/sched/layer_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "core/base/kv_block.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using absl::StatusCode;

constexpr int64_t kMib = 1 << 20;

// About SmolLM2-135M.
ModelConfig SmallConfig(int64_t layers = 30) {
  ModelConfig config;
  config.hidden_size = 576;
  config.intermediate_size = 1536;
  config.num_layers = layers;
  config.num_heads = 9;
  config.num_kv_heads = 3;
  config.head_dim = 64;
  config.vocab_size = 49152;
  config.tied_embeddings = true;
  return config;
}

ModelBytes SmallBytes(int64_t layers = 30) {
  ModelBytes bytes;
  bytes.layers.assign(static_cast<size_t>(layers), 2'200'000);
  bytes.embedding = 30'000'000;
  bytes.norm = 2304;
  bytes.kv_block = 2 * 192 * kBlockSize * 4;
  return bytes;
}

std::vector<int64_t> Counts(const LayerSplit& split) {
  std::vector<int64_t> counts;
  for (const StageSplit& stage : split.stages) counts.push_back(stage.layers.count());
  return counts;
}

LayerSplit Split(const ModelConfig& config, const ModelBytes& bytes, const SplitOptions& options) {
  const auto split = SplitLayers(config, bytes, options);
  EXPECT_TRUE(IsOk(split));
  return split.ok() ? *split : LayerSplit();
}

TEST(LayerSplit, OneStageTakesAll) {
  const LayerSplit split = Split(SmallConfig(), SmallBytes(), {});
  ASSERT_EQ(split.stages.size(), 1u);
  const StageSplit& stage = split.stages[0];
  EXPECT_EQ(stage.layers.first, 0);
  EXPECT_EQ(stage.layers.last, 30);
  // A tied table is there once.
  EXPECT_EQ(stage.weight_bytes, 30 * 2'200'000 + 30'000'000 + 2304);
  EXPECT_EQ(stage.block_bytes, 30 * 98'304);
  EXPECT_EQ(split.num_blocks, 0);
  EXPECT_EQ(stage.work.weight_bytes, 30 * 2'200'000 + 2304);
  EXPECT_EQ(stage.work.head_bytes, 30'000'000);
  EXPECT_EQ(stage.work.kv_bytes_per_position, 30 * 1536);
  EXPECT_EQ(stage.work.flops_per_token, 2 * 30 * 3'538'944);
  EXPECT_EQ(stage.work.flops_per_pair, 30 * 4 * 576);
  EXPECT_EQ(stage.work.head_flops_per_sample, 2 * 576 * 49152);
}

TEST(LayerSplit, TheLastStageHasFewerLayersForItsHead) {
  SplitOptions options;
  options.num_stages = 2;
  const LayerSplit split = Split(SmallConfig(), SmallBytes(), options);
  ASSERT_EQ(split.stages.size(), 2u);
  EXPECT_GT(split.stages[0].layers.count(), split.stages[1].layers.count());
  EXPECT_EQ(split.stages[0].layers.last, split.stages[1].layers.first);
  EXPECT_EQ(split.stages[1].layers.last, 30);
  // Each of them has the tied table; only the last one computes with all of it.
  EXPECT_EQ(split.stages[0].weight_bytes, split.stages[0].layers.count() * 2'200'000 + 30'000'000);
  EXPECT_EQ(split.stages[1].weight_bytes,
            split.stages[1].layers.count() * 2'200'000 + 30'000'000 + 2304);
  EXPECT_EQ(split.stages[0].work.head_bytes, 0);
  EXPECT_EQ(split.stages[0].work.head_flops_per_sample, 0);
  EXPECT_EQ(split.slowest_ns(), std::max(split.stages[0].step_ns, split.stages[1].step_ns));
}

TEST(LayerSplit, AHeadOfItsOwnIsOnTheLastStageAlone) {
  ModelBytes bytes = SmallBytes();
  bytes.head = 50'000'000;
  SplitOptions options;
  options.num_stages = 3;
  options.layers = {10, 10, 10};
  const LayerSplit split = Split(SmallConfig(), bytes, options);
  ASSERT_EQ(split.stages.size(), 3u);
  EXPECT_EQ(split.stages[0].weight_bytes, 22'000'000 + 30'000'000);
  EXPECT_EQ(split.stages[1].weight_bytes, 22'000'000);
  EXPECT_EQ(split.stages[2].weight_bytes, 22'000'000 + 50'000'000 + 2304);
  EXPECT_EQ(split.stages[2].work.head_bytes, 50'000'000);
}

TEST(LayerSplit, TheCostOfItsStagesIsThatOfTheModel) {
  SplitOptions options;
  options.num_stages = 3;
  const LayerSplit split = Split(SmallConfig(), SmallBytes(), options);
  const PlanShape shape = DecodeShape(options.rows, options.rows * options.context);
  const PipelineCost cost = split.Cost(options.rates);
  EXPECT_EQ(cost.num_stages(), 3);
  EXPECT_EQ(cost.PredictSlowestNs(shape), split.slowest_ns());
}

// All ways to cut; the least of the slowest stages' times, or -1 if none fits.
class AllCuts {
 public:
  AllCuts(const ModelConfig& config, const ModelBytes& bytes, const SplitOptions& options)
      : config_(config), bytes_(bytes), options_(options) {}

  int64_t Best() {
    Try({}, config_.num_layers);
    return best_;
  }

 private:
  void Try(std::vector<int64_t> counts, int64_t rest) {
    const auto stages_left = options_.num_stages - static_cast<int64_t>(counts.size());
    if (stages_left == 1) {
      counts.push_back(rest);
      Measure(counts);
      return;
    }
    for (int64_t count = 1; count <= rest - (stages_left - 1); ++count) {
      std::vector<int64_t> more = counts;
      more.push_back(count);
      Try(more, rest - count);
    }
  }
  void Measure(const std::vector<int64_t>& counts) {
    SplitOptions options = options_;
    options.layers = counts;
    const auto split = SplitLayers(config_, bytes_, options);
    if (!split.ok()) return;
    if (best_ < 0 || split->slowest_ns() < best_) best_ = split->slowest_ns();
  }

  const ModelConfig& config_;
  const ModelBytes& bytes_;
  const SplitOptions& options_;
  int64_t best_ = -1;
};

TEST(LayerSplit, IsTheBestOfAllSplits) {
  std::mt19937 random(3);
  const auto draw = [&](int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least + 1));
  };
  int unfit = 0;
  for (int trial = 0; trial < 300; ++trial) {
    SCOPED_TRACE(trial);
    const int64_t layers = draw(1, 9);
    const ModelConfig config = SmallConfig(layers);
    ModelBytes bytes = SmallBytes(layers);
    for (int64_t& layer : bytes.layers) layer = draw(1, 40) * 100'000;
    if (draw(0, 1) == 1) bytes.head = draw(1, 60) * 1'000'000;
    SplitOptions options;
    options.num_stages = draw(1, std::min<int64_t>(layers, 4));
    options.rows = draw(1, 64);
    if (draw(0, 1) == 1) {
      for (int64_t i = 0; i < options.num_stages; ++i) {
        options.memory.push_back(draw(0, 4) == 0 ? 0 : draw(5, 80) * 1'000'000);
      }
      options.workspace = draw(0, 3) * 1'000'000;
      options.min_blocks = draw(1, 20);
    }
    const int64_t best = AllCuts(config, bytes, options).Best();
    const auto split = SplitLayers(config, bytes, options);
    if (best < 0) {
      EXPECT_TRUE(Fails(split, StatusCode::kResourceExhausted, {"MiB"}));
      ++unfit;
      continue;
    }
    ASSERT_TRUE(IsOk(split));
    EXPECT_EQ(split->slowest_ns(), best);
    int64_t next = 0;
    for (const StageSplit& stage : split->stages) {
      EXPECT_EQ(stage.layers.first, next);
      EXPECT_GE(stage.layers.count(), 1);
      next = stage.layers.last;
    }
    EXPECT_EQ(next, layers);
  }
  EXPECT_GT(unfit, 10);
  EXPECT_LT(unfit, 200);
}

// Where the slowest stage is so in any case, the others share the rest evenly.
TEST(LayerSplit, OfTheFastestTheMostEven) {
  const ModelConfig config = SmallConfig(13);
  ModelBytes bytes = SmallBytes(13);
  bytes.head = 400'000'000;
  SplitOptions options;
  options.num_stages = 4;
  const LayerSplit split = Split(config, bytes, options);
  EXPECT_EQ(Counts(split), (std::vector<int64_t>{4, 4, 4, 1}));
}

TEST(LayerSplit, UnevenLayersMoveTheCuts) {
  ModelBytes bytes = SmallBytes(8);
  bytes.head = 1;
  ModelConfig config = SmallConfig(8);
  config.vocab_size = 8;
  for (size_t i = 0; i < 2; ++i) bytes.layers[i] = 300'000'000;
  SplitOptions options;
  options.num_stages = 2;
  options.rows = 1;
  EXPECT_EQ(Counts(Split(config, bytes, options)), (std::vector<int64_t>{1, 7}));
}

TEST(LayerSplit, BlocksAreTheLeastOverTheStages) {
  SplitOptions options;
  options.num_stages = 2;
  options.layers = {20, 10};
  options.kv_memory = 100 * kMib;
  const LayerSplit split = Split(SmallConfig(), SmallBytes(), options);
  ASSERT_EQ(split.stages.size(), 2u);
  EXPECT_EQ(split.stages[0].max_blocks, 100 * kMib / (20 * 98'304));
  EXPECT_EQ(split.stages[1].max_blocks, 100 * kMib / (10 * 98'304));
  EXPECT_EQ(split.num_blocks, split.stages[0].max_blocks);
  EXPECT_EQ(split.stages[0].unused_bytes, 100 * kMib - split.num_blocks * 20 * 98'304);
  EXPECT_EQ(split.stages[1].unused_bytes, 100 * kMib - split.num_blocks * 10 * 98'304);
}

TEST(LayerSplit, MemoryIsForWeightsWorkspaceAndBlocks) {
  SplitOptions options;
  options.num_stages = 2;
  options.layers = {15, 15};
  options.memory = {200 * kMib, 0};  // of the second one nothing is known
  options.workspace = 10 * kMib;
  const LayerSplit split = Split(SmallConfig(), SmallBytes(), options);
  ASSERT_EQ(split.stages.size(), 2u);
  const int64_t room = 190 * kMib - split.stages[0].weight_bytes;
  EXPECT_EQ(split.num_blocks, room / (15 * 98'304));
  EXPECT_EQ(split.stages[0].unused_bytes, room - split.num_blocks * 15 * 98'304);
  EXPECT_EQ(split.stages[1].max_blocks, 0);
  EXPECT_EQ(split.stages[1].unused_bytes, 0);

  options.kv_memory = 30 * kMib;  // the less of both
  const LayerSplit bounded = Split(SmallConfig(), SmallBytes(), options);
  EXPECT_EQ(bounded.num_blocks, 30 * kMib / (15 * 98'304));
  EXPECT_EQ(bounded.stages[0].unused_bytes, room - bounded.num_blocks * 15 * 98'304);
}

TEST(LayerSplit, AStageOfLittleMemoryGetsFewLayers) {
  SplitOptions options;
  options.num_stages = 3;
  options.memory = {200 * kMib, 10 * kMib, 200 * kMib};
  const std::vector<int64_t> counts = Counts(Split(SmallConfig(), SmallBytes(), options));
  ASSERT_EQ(counts.size(), 3u);
  EXPECT_EQ(counts[1], 4);  // of 2.3 MB each with a block
}

TEST(LayerSplit, WhatDoesNotFitSaysWhatWould) {
  SplitOptions options;
  options.num_stages = 2;
  options.memory = {40 * kMib, 40 * kMib};
  const auto split = SplitLayers(SmallConfig(), SmallBytes(), options);
  ASSERT_TRUE(Fails(split, StatusCode::kResourceExhausted,
                    {"does not fit into 2 stages", "would need 62 MiB", "more memory"}));
  options.memory = {62 * kMib, 62 * kMib};
  EXPECT_TRUE(IsOk(SplitLayers(SmallConfig(), SmallBytes(), options)));

  options.layers = {25, 5};
  EXPECT_TRUE(Fails(SplitLayers(SmallConfig(), SmallBytes(), options),
                    StatusCode::kResourceExhausted, {"stage 0 of 25 layers would need 84 MiB"}));
  SplitOptions blocks;
  blocks.kv_memory = 10 * kMib;
  blocks.min_blocks = 4;
  EXPECT_TRUE(Fails(SplitLayers(SmallConfig(), SmallBytes(), blocks),
                    StatusCode::kResourceExhausted, {"12 MiB of it for keys and values"}));
}

TEST(LayerSplit, WrongNumbersOfStages) {
  SplitOptions options;
  for (int64_t stages : {int64_t{-1}, int64_t{0}, int64_t{31}, INT64_MAX}) {
    options.num_stages = stages;
    EXPECT_TRUE(Fails(SplitLayers(SmallConfig(), SmallBytes(), options),
                      StatusCode::kInvalidArgument, {"30 layers", "ask for 1 to 30"}));
  }
  options.num_stages = 30;
  EXPECT_EQ(Counts(Split(SmallConfig(), SmallBytes(), options)), std::vector<int64_t>(30, 1));
}

TEST(LayerSplit, AUsersSplitIsAllOfTheModel) {
  SplitOptions options;
  options.num_stages = 3;
  const auto status = [&](std::vector<int64_t> layers) {
    options.layers = std::move(layers);
    return SplitLayers(SmallConfig(), SmallBytes(), options).status();
  };
  EXPECT_TRUE(IsOk(status({1, 28, 1})));
  EXPECT_TRUE(Fails(status({10, 10, 9}), StatusCode::kInvalidArgument,
                    {"10 + 10 + 9, are fewer than the model's 30"}));
  EXPECT_TRUE(
      Fails(status({10, 10, 11}), StatusCode::kInvalidArgument, {"more than the model's 30"}));
  EXPECT_TRUE(Fails(status({INT64_MAX, INT64_MAX, 32}), StatusCode::kInvalidArgument, {"more"}));
  EXPECT_TRUE(Fails(status({30, 0, 0}), StatusCode::kInvalidArgument, {"a layer at least"}));
  EXPECT_TRUE(
      Fails(status({15, 15}), StatusCode::kInvalidArgument, {"given for 2 stages", "there are 3"}));
}

TEST(ParseLayerCounts, NumbersWithCommas) {
  const auto counts = ParseLayerCounts("10,12,8");
  ASSERT_TRUE(IsOk(counts));
  EXPECT_EQ(*counts, (std::vector<int64_t>{10, 12, 8}));
  EXPECT_EQ(*ParseLayerCounts("30"), (std::vector<int64_t>{30}));
  for (const char* text : {"", ",", "10,", ",10", "10,,8", "10;8", "0,30", "-1,31", "1.5,2", "a",
                           "99999999999999999999"}) {
    EXPECT_TRUE(Fails(ParseLayerCounts(text), StatusCode::kInvalidArgument, {"such as 10,12,8"}))
        << text;
  }
}

}  // namespace
}  // namespace penstock
