#include "worker/load_check.h"

#include <functional>

#include "core/base/kv_block.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"
#include "worker/stage.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr uint64_t kHash = 0xabc;

ModelConfig Config() {
  ModelConfig config;
  config.num_layers = 8;
  config.context_length = 100;
  return config;
}

// The second of three stages.
StageOptions Middle() {
  StageOptions options;
  options.model = "model.gguf";
  options.stage = 1;
  options.num_stages = 3;
  options.layers = {2, 5};
  return options;
}

TEST(LoadCheck, LetsEveryPlaceOfAPipelineThrough) {
  EXPECT_TRUE(IsOk(CheckStageOptions({}, Config(), kHash)));
  EXPECT_EQ(StageLayers({}, Config()).count(), 8);
  StageOptions options = Middle();
  EXPECT_TRUE(IsOk(CheckStageOptions(options, Config(), kHash)));
  options.model_hash = kHash;
  EXPECT_TRUE(IsOk(CheckStageOptions(options, Config(), kHash)));
  options.stage = 0;
  options.layers = {0, 2};
  EXPECT_TRUE(IsOk(CheckStageOptions(options, Config(), kHash)));
  options.stage = 2;
  options.layers = {5, 8};
  EXPECT_TRUE(IsOk(CheckStageOptions(options, Config(), kHash)));
}

TEST(LoadCheck, RefusesWhatDoesNotFitTheModelOrThePipeline) {
  struct Case {
    std::string_view words;
    std::function<void(StageOptions&)> spoil;
  };
  const Case cases[] = {
      {"count from 0", [](StageOptions& o) { o.stage = -1; }},
      {"count from 0", [](StageOptions& o) { o.stage = 3; }},
      {"count from 0", [](StageOptions& o) { o.num_stages = 0; }},
      {"at least one layer",
       [](StageOptions& o) {
         o.layers = {3, 2};
       }},
      {"at least one layer",
       [](StageOptions& o) {
         o.layers = {-1, 2};
       }},
      {"at least one layer",
       [](StageOptions& o) {
         o.layers = {2, 9};
       }},
      {"begins at layer 0",
       [](StageOptions& o) {
         o.layers = {0, 3};
       }},
      {"begins at layer 0", [](StageOptions& o) { o.stage = 0; }},
      {"begins at layer 0", [](StageOptions& o) { o.layers = {}; }},  // all
      {"ends with the last layer",
       [](StageOptions& o) {
         o.layers = {2, 8};
       }},
      {"ends with the last layer", [](StageOptions& o) { o.stage = 2; }},
      {"plans_ahead is 0", [](StageOptions& o) { o.plans_ahead = 0; }},
      {"set it to 1 to 64", [](StageOptions& o) { o.plans_ahead = kMaxPlansAhead + 1; }},
  };
  for (const Case& one : cases) {
    StageOptions options = Middle();
    one.spoil(options);
    EXPECT_TRUE(Fails(CheckStageOptions(options, Config(), kHash),
                      absl::StatusCode::kInvalidArgument, {one.words}));
  }
}

TEST(LoadCheck, AnotherModelIsRefusedWithBothHashes) {
  StageOptions options = Middle();
  options.model_hash = 0x123;
  EXPECT_TRUE(Fails(CheckStageOptions(options, Config(), kHash),
                    absl::StatusCode::kFailedPrecondition,
                    {"0000000000000123", "0000000000000abc", "model.gguf", "the same model file"}));
}

TEST(LoadCheck, BlocksAreTheNumberAskedForOrWhatTheMemoryHolds) {
  StageOptions options;
  options.max_sequences = 3;
  EXPECT_EQ(*StageBlocks(options, Config(), 300, 1050), 3);
  // No more than all sequences can use.
  EXPECT_EQ(*StageBlocks(options, Config(), 300, 1 << 20), 3 * BlocksFor(100));
  options.num_blocks = 17;
  EXPECT_EQ(*StageBlocks(options, Config(), 300, 1 << 20), 17);
  EXPECT_EQ(*StageBlocks(options, Config(), 300, 0), 17);
  options.num_blocks = 0;
  EXPECT_TRUE(Fails(StageBlocks(options, Config(), 300, 299), absl::StatusCode::kInvalidArgument,
                    {"300 bytes", "--kv-memory-mib"}));
  EXPECT_EQ(KvBytesOf(1000), 900);
}

// What a stage of a slice says of itself, and that the checks are asked.
TEST(LoadCheck, AStageSaysWhatItHasLoaded) {
  const TempFile file(TinyModel(2, false, 4).Build());
  StageOptions options;
  options.model = file.path();
  options.kv_memory_bytes = 1 << 20;
  options.max_sequences = 2;
  options.threads = 1;
  const auto whole = MakeModelStage()->Load(options);
  ASSERT_TRUE(IsOk(whole));
  EXPECT_EQ(whole->layers.count(), 4);
  options.num_stages = 3;
  options.stage = 1;
  options.layers = {1, 3};
  options.num_blocks = 5;
  LoadProgress last;
  const auto stage = MakeModelStage();
  const auto info = stage->Load(options, [&](const LoadProgress& progress) { last = progress; });
  ASSERT_TRUE(IsOk(info));
  EXPECT_EQ(info->layers.first, 1);
  EXPECT_EQ(info->layers.last, 3);
  EXPECT_EQ(info->num_blocks, 5);
  EXPECT_EQ(info->block_bytes * 2, whole->block_bytes);
  EXPECT_EQ(info->model_hash, whole->model_hash);
  EXPECT_LT(info->weight_bytes, whole->weight_bytes / 2);
  EXPECT_TRUE(last.tensor.starts_with("layers.2.")) << last.tensor;
  EXPECT_LT(last.done, last.total);
  EXPECT_GT(last.done, last.total * 3 / 4) << "of the slice's own weights";

  EpochStart start;
  start.num_blocks = 6;
  EXPECT_TRUE(Fails(stage->BeginEpoch(start), absl::StatusCode::kFailedPrecondition,
                    {"6 KV blocks", "has 5"}));
  start.num_blocks = 4;
  EXPECT_TRUE(IsOk(stage->BeginEpoch(start)));
  StepPlan plan;
  plan.admissions = {{0, 1, {}, 1, {}}};
  PlanRow row;
  row.generation = 1;
  row.tokens = {1};
  row.blocks = {4};
  plan.rows = {row};
  EXPECT_TRUE(Fails(stage->Execute(plan), absl::StatusCode::kFailedPrecondition, {"block 4 of 4"}));

  options.model_hash = whole->model_hash + 1;
  EXPECT_TRUE(
      Fails(MakeModelStage()->Load(options), absl::StatusCode::kFailedPrecondition, {"the hash"}));
  options.model_hash = whole->model_hash;
  EXPECT_TRUE(IsOk(MakeModelStage()->Load(options)));
  options.layers = {1, 4};
  EXPECT_TRUE(
      Fails(MakeModelStage()->Load(options), absl::StatusCode::kInvalidArgument, {"last layer"}));
}

TEST(LoadCheck, TellsWhatAGpuHasAndWhatIsNeeded) {
  constexpr int64_t kGib = int64_t{1} << 30;
  StageOptions options;
  options.device = "cuda:1";
  options.stage = 2;
  EXPECT_TRUE(IsOk(CheckRoom(options, 13 * kGib, 3 * kGib, 16 * kGib)));
  EXPECT_TRUE(IsOk(CheckRoom(options, 13 * kGib, 3 * kGib, 0)));  // no memory of its own
  EXPECT_TRUE(Fails(CheckRoom(options, 13 * kGib, 3 * kGib, 16 * kGib - 1),
                    absl::StatusCode::kResourceExhausted,
                    {"cuda:1 has 16383 MiB free", "stage 2 needs 13312 MiB for weights",
                     "3072 MiB for KV", "--kv-memory-mib", "--stages"}));
}

}  // namespace
}  // namespace penstock
