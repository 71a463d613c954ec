// What `penstock bench model` counts, and that it times no stage whose answers are wrong.
#include "frontend/model_bench.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "core/base/kv_block.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

StepCase Case(std::string_view text) {
  const absl::StatusOr<StepCase> step = StepCase::Parse(text);
  EXPECT_TRUE(IsOk(step)) << text;
  return step.value_or(StepCase());
}

TEST(StepCase, IsReadAndNamed) {
  const StepCase decode = Case("8x1024");
  EXPECT_FALSE(decode.is_prefill);
  EXPECT_EQ(decode.batch, 8);
  EXPECT_EQ(decode.tokens, 1024);
  EXPECT_EQ(decode.Name(), "8x1024");
  const StepCase prefill = Case("prefill:2x2048");
  EXPECT_TRUE(prefill.is_prefill);
  EXPECT_EQ(prefill.batch, 2);
  EXPECT_EQ(prefill.Name(), "prefill:2x2048");
  for (const char* bad : {"", "8", "x", "8x", "x8", "0x8", "8x0", "-1x8", "8x8x8",
                          "prefill:", "prefill 1x8", "decode:1x8", "1x99999999999999999999"}) {
    EXPECT_TRUE(Fails(StepCase::Parse(bad).status(), absl::StatusCode::kInvalidArgument,
                      {"is no case", "8x1024"}))
        << bad;
  }
}

TEST(BenchRoom, IsWhatTheLargestCaseNeeds) {
  const BenchRoom room = RoomFor({Case("3x65"), Case("1x1024"), Case("prefill:2x4096")});
  EXPECT_EQ(room.max_sequences, 3);
  EXPECT_EQ(room.num_blocks, 2 * BlocksFor(4096));
  EXPECT_EQ(room.max_step_tokens, 8192);
}

ModelConfig SmallConfig() {
  ModelConfig config;
  config.architecture = "llama";
  config.hidden_size = 8;
  config.intermediate_size = 16;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 4;
  config.vocab_size = 10;
  config.context_length = 64;
  return config;
}

TEST(StepCost, CountsWhatIsReadAndComputed) {
  const ModelConfig config = SmallConfig();
  // Of a layer: q and o 8 x 8, k and v 8 x 4, three of 8 x 16, two norms of 8; then a norm.
  constexpr double kLayers = 2 * (2 * 64 + 2 * 32 + 3 * 128 + 16) + 8;
  const StepCost decode = CostOf(Case("3x5"), config, 1000, 32);
  EXPECT_EQ(decode.bytes(), 1000 + 3 * 5 * 32);
  EXPECT_EQ(decode.linear_flops, 2 * 3 * (kLayers + 80));
  EXPECT_EQ(decode.attention_flops, 4 * 3 * 5 * 2 * 8);
  const StepCost prefill = CostOf(Case("prefill:3x5"), config, 1000, 32);
  EXPECT_EQ(prefill.bytes(), 1000 + 3 * 5 * 32);
  EXPECT_EQ(prefill.linear_flops, 2 * 3 * (5 * kLayers + 80));
  EXPECT_EQ(prefill.attention_flops, 4 * 3 * (1 + 2 + 3 + 4 + 5) * 2 * 8);

  ModelConfig windowed = config;
  windowed.sliding_window = 2;
  EXPECT_EQ(CostOf(Case("3x5"), windowed, 1000, 32).bytes(), 1000 + 3 * 2 * 32);
  EXPECT_EQ(CostOf(Case("prefill:1x5"), windowed, 1000, 32).attention_flops,
            4 * (1 + 2 + 2 + 2 + 2) * 2 * 8);
}

TEST(StepCost, TheFloorIsTheSlowerOfBytesAndFlops) {
  StepCost cost;
  cost.weight_bytes = 100;
  cost.kv_bytes = 50;
  cost.linear_flops = 4000;
  cost.attention_flops = 10;
  const StepCase decode = Case("1x5");
  EXPECT_DOUBLE_EQ(cost.FloorSeconds(decode, {"", 10, 100}), 40 + 5);
  EXPECT_DOUBLE_EQ(cost.FloorSeconds(decode, {"", 10, 1000}), 10 + 5);
  // A device whose rate of computing is not known: a decode is held against its bytes, a prompt
  // against nothing.
  EXPECT_DOUBLE_EQ(cost.FloorSeconds(decode, {"", 10, 0}), 10 + 5);
  EXPECT_EQ(cost.FloorSeconds(Case("prefill:1x5"), {"", 10, 0}), 0);
  EXPECT_EQ(cost.FloorSeconds(decode, {}), 0);
}

// The tiny model, whose results the test may bend: `bend` sees each plan and what came of it.
class BentStage final : public StageExecutor {
 public:
  using Bend = std::function<void(const StepPlan& plan, StepResult* result)>;

  BentStage(const StepCase& step, Bend bend) : bend_(std::move(bend)) {
    const BenchRoom room = RoomFor({step});
    StageOptions options;
    options.model = "dummy:tiny";
    options.threads = 1;
    options.max_sequences = room.max_sequences;
    options.max_step_tokens = room.max_step_tokens;
    options.num_blocks = room.num_blocks;
    EXPECT_TRUE(IsOk(Load(options, [](const LoadProgress&) {})));
  }

  absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                 const ProgressCallback& progress) override {
    return stage_->Load(options, progress);
  }
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override {
    ++plans_;
    absl::StatusOr<StepResult> result = stage_->Execute(plan);
    if (result.ok() && bend_) bend_(plan, &*result);
    return result;
  }
  int64_t plans() const { return plans_; }

 private:
  const std::unique_ptr<StageExecutor> stage_ = MakeModelStage();
  const Bend bend_;
  int64_t plans_ = 0;
};

absl::StatusOr<StepTimes> TimesOf(const StepCase& step, BentStage::Bend bend,
                                  int64_t* plans = nullptr) {
  BentStage stage(step, std::move(bend));
  ModelBench bench(stage, 512, RoomFor({step}).max_step_tokens, 1e-3);
  absl::StatusOr<StepTimes> times = bench.Run(step, 4);
  if (plans != nullptr) *plans = stage.plans();
  return times;
}

bool IsDecode(const StepPlan& plan) { return plan.rows.front().tokens.size() == 1; }

TEST(ModelBench, TimesStepsWhoseResultsAreRight) {
  for (const char* text : {"1x1", "1x64", "3x130", "prefill:1x100", "prefill:3x65"}) {
    int64_t plans = 0;
    const absl::StatusOr<StepTimes> times = TimesOf(Case(text), nullptr, &plans);
    ASSERT_TRUE(IsOk(times)) << text;
    EXPECT_EQ(times->steps, 4);
    EXPECT_GT(times->median_seconds, 0);
    EXPECT_GE(times->p90_seconds, times->median_seconds);
    EXPECT_GT(plans, 4) << text;
  }
}

// 30 x 100 tokens take two steps of 2048 to feed.
TEST(ModelBench, FeedsContextsInAsManyStepsAsTheyTake) {
  EXPECT_EQ(RoomFor({Case("30x100")}).max_step_tokens, 2048);
  EXPECT_TRUE(IsOk(TimesOf(Case("30x100"), nullptr)));
}

// What a decode that reads another sequence's keys, or a stale row, would do.
TEST(ModelBench, ADecodeThatIsNotThePromptsIsRefused) {
  for (const char* text : {"3x130", "prefill:3x65"}) {
    const auto times = TimesOf(Case(text), [](const StepPlan& plan, StepResult* result) {
      if (!IsDecode(plan)) return;
      SampledToken& sample = result->samples[1];
      sample.token = (sample.token + 1) % 512;
    });
    EXPECT_TRUE(Fails(times.status(), absl::StatusCode::kDataLoss,
                      {"case", "sequence 1", "its last token alone"}))
        << text;
  }
  const auto times = TimesOf(Case("2x50"), [](const StepPlan& plan, StepResult* result) {
    if (IsDecode(plan)) result->samples[0].logprob += 0.01f;
  });
  EXPECT_TRUE(Fails(times.status(), absl::StatusCode::kDataLoss, {"sequence 0"}));
}

TEST(ModelBench, AStepThatIsNotTheSameEachTimeIsRefused) {
  for (const char* text : {"2x50", "prefill:2x50"}) {
    int64_t same = 0;
    const auto times = TimesOf(Case(text), [&](const StepPlan& plan, StepResult* result) {
      const bool is_timed = IsDecode(plan) != Case(text).is_prefill;
      if (is_timed && ++same == 6) result->samples[0].token ^= 1;
    });
    EXPECT_TRUE(Fails(times.status(), absl::StatusCode::kDataLoss, {"run again"})) << text;
  }
}

TEST(ModelBench, AFailedRowIsRefused) {
  const auto times = TimesOf(Case("2x50"), [](const StepPlan&, StepResult* result) {
    for (SampledToken& sample : result->samples) {
      sample.token = kNoToken;
      sample.logprob = 0;
    }
  });
  EXPECT_TRUE(Fails(times.status(), absl::StatusCode::kDataLoss, {"no numbers"}));
}

TEST(ModelBench, ACaseWithoutRoomIsTheStagesError) {
  BentStage stage(Case("1x50"), nullptr);
  ModelBench bench(stage, 512, 50, 1e-3);
  EXPECT_TRUE(
      Fails(bench.Run(Case("2x200"), 1).status(), absl::StatusCode::kFailedPrecondition, {}));
}

}  // namespace
}  // namespace penstock
