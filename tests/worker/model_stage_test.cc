// The stage on a small random model: what it refuses, and that a token's bits depend on nothing
// but its sequence.
#include "tests/support/drive.h"
#include "tests/support/tiny_model.h"
#include "worker/backends.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

class ModelStageTest : public ::testing::Test {
 protected:
  StageOptions Options(int threads = 2) const {
    StageOptions options;
    options.model = file_.path();
    options.kv_memory_bytes = 1 << 20;
    options.max_step_tokens = 64;
    options.max_sequences = 8;
    options.threads = threads;
    return options;
  }
  std::unique_ptr<StageExecutor> Loaded(int threads = 2) const {
    std::unique_ptr<StageExecutor> stage = MakeModelStage();
    const auto info = stage->Load(Options(threads));
    EXPECT_TRUE(IsOk(info));
    return stage;
  }

  const TempFile file_{TinyModel().Build()};
};

std::vector<int32_t> Prompt(int32_t first, int32_t count) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < count; ++i) prompt.push_back((first + i * i * 7) % kTinyVocab);
  return prompt;
}

Answer Alone(StageExecutor& stage, Driven sequence) {
  sequence.delay = 0;
  std::vector<Driven> one = {sequence};
  Drive(stage, one, 40, kTinyContext);
  return one[0].answer;
}

TEST_F(ModelStageTest, ABatchGivesEachSequenceTheBitsItHasAlone) {
  std::vector<Driven> sequences;
  for (int32_t i = 0; i < 6; ++i) {
    Driven sequence;
    sequence.prompt = Prompt(i, 3 + i * 17);
    sequence.sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
    sequence.sampling.top_p = i == 3 ? 0.9f : 1.0f;
    sequence.sampling.seed = static_cast<uint64_t>(i);
    sequence.chunk = 1 + i * 2;  // 6 x 11 tokens at most: within a plan
    sequence.delay = i % 3;
    sequences.push_back(sequence);
  }
  std::vector<Driven> together = sequences;
  const auto stage = Loaded();
  ASSERT_NO_FATAL_FAILURE(Drive(*stage, together, 40, kTinyContext));
  const auto one_thread = Loaded(1);
  for (size_t i = 0; i < sequences.size(); ++i) {
    Driven whole = sequences[i];
    whole.chunk = 64;
    EXPECT_EQ(Alone(*one_thread, whole), together[i].answer) << "sequence " << i;
  }
}

// Resume after a preemption or a dead stage: prompt and tokens so far come back as a prompt.
TEST_F(ModelStageTest, AReplayedSequenceGoesOnWithTheSameBits) {
  Driven sequence;
  sequence.prompt = Prompt(5, 30);
  sequence.sampling.temperature = 1.0f;
  sequence.sampling.seed = 9;
  const Answer whole = Alone(*Loaded(), sequence);
  for (size_t cut : {1, 17, 39}) {
    Driven resumed = sequence;
    resumed.prompt.insert(resumed.prompt.end(), whole.tokens.begin(),
                          whole.tokens.begin() + static_cast<int64_t>(cut));
    std::vector<Driven> one = {resumed};
    const auto fresh = Loaded();
    ASSERT_NO_FATAL_FAILURE(Drive(*fresh, one, 40 - cut, kTinyContext));
    EXPECT_TRUE(std::equal(one[0].answer.tokens.begin(), one[0].answer.tokens.end(),
                           whole.tokens.begin() + static_cast<int64_t>(cut)));
    EXPECT_TRUE(std::equal(one[0].answer.logprobs.begin(), one[0].answer.logprobs.end(),
                           whole.logprobs.begin() + static_cast<int64_t>(cut)));
  }
}

TEST_F(ModelStageTest, AFileOfMixedQuantizationRuns) {
  const TempFile mixed(TinyModel(2, /*v_as_q8_0=*/true).Build());
  StageOptions options = Options();
  options.model = mixed.path();
  const auto stage = MakeModelStage();
  ASSERT_TRUE(IsOk(stage->Load(options)));
  Driven sequence;
  sequence.prompt = Prompt(5, 30);
  const Answer answer = Alone(*stage, sequence);
  EXPECT_EQ(answer.tokens.size(), 40u);
  for (float logprob : answer.logprobs) EXPECT_TRUE(std::isfinite(logprob));
}

TEST_F(ModelStageTest, PaddedPrefillGivesTheSameAnswers) {
  StageOptions options = Options();
  options.prefill_attention = PrefillAttention::kPadded;
  const auto padded = MakeModelStage();
  ASSERT_TRUE(IsOk(padded->Load(options)));
  std::vector<Driven> sequences;
  for (int32_t i = 0; i < 5; ++i) {
    Driven sequence;
    sequence.prompt = Prompt(i, 2 + i * 19);
    sequence.sampling.temperature = 0;
    sequence.chunk = 3 + i * 2;
    sequence.delay = i % 2;
    sequences.push_back(sequence);
  }
  std::vector<Driven> expected = sequences;
  ASSERT_NO_FATAL_FAILURE(Drive(*padded, sequences, 20, kTinyContext));
  ASSERT_NO_FATAL_FAILURE(Drive(*Loaded(), expected, 20, kTinyContext));
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_EQ(sequences[i].answer.tokens, expected[i].answer.tokens) << i;
    for (size_t t = 0; t < 20; ++t) {
      EXPECT_NEAR(sequences[i].answer.logprobs[t], expected[i].answer.logprobs[t], 1e-4);
    }
  }
}

TEST_F(ModelStageTest, APaddedWorkspaceThatIsTooLargeNamesTheSettings) {
  StageOptions options = Options();
  options.padded_memory_bytes = 1000;
  EXPECT_TRUE(IsOk(MakeModelStage()->Load(options)));  // flash needs none of it
  options.prefill_attention = PrefillAttention::kPadded;
  EXPECT_TRUE(Fails(MakeModelStage()->Load(options), absl::StatusCode::kInvalidArgument,
                    {"--padded-memory-mib"}));
}

TEST_F(ModelStageTest, RefusesASlotThatWasNotAdmitted) {
  const auto stage = Loaded();
  StepPlan plan;
  PlanRow row;
  row.generation = 1;
  row.tokens = {1};
  row.blocks = {0};
  plan.rows = {row};
  EXPECT_TRUE(Fails(stage->Execute(plan), absl::StatusCode::kFailedPrecondition, {"slot 0"}));
  plan.admissions = {{0, 1, {}, 0, {}}};
  EXPECT_TRUE(IsOk(stage->Execute(plan)));
  plan.admissions = {{0, 2, {}, 0, {}}};  // the slot's next user; the row is of the one before
  EXPECT_TRUE(Fails(stage->Execute(plan), absl::StatusCode::kFailedPrecondition, {"generation 1"}));
  plan.admissions = {{8, 1, {}, 0, {}}};
  EXPECT_TRUE(Fails(stage->Execute(plan), absl::StatusCode::kFailedPrecondition, {"slot 8 of 8"}));
}

TEST_F(ModelStageTest, RefusesToRunBeforeLoadingAndToLoadTwice) {
  const auto stage = MakeModelStage();
  EXPECT_TRUE(Fails(stage->Execute({}), absl::StatusCode::kFailedPrecondition, {"no model"}));
  ASSERT_TRUE(IsOk(stage->Load(Options())));
  EXPECT_TRUE(Fails(stage->Load(Options()), absl::StatusCode::kFailedPrecondition, {"already"}));
}

TEST_F(ModelStageTest, TooLittleKvMemoryNamesTheSetting) {
  StageOptions options = Options();
  options.kv_memory_bytes = 1000;
  EXPECT_TRUE(Fails(MakeModelStage()->Load(options), absl::StatusCode::kInvalidArgument,
                    {"--kv-memory-mib"}));
}

TEST_F(ModelStageTest, RefusesADeviceThatIsNotThere) {
  StageOptions options = Options();
  options.device = "tpu";
  EXPECT_TRUE(Fails(MakeModelStage()->Load(options), absl::StatusCode::kInvalidArgument,
                    {"'tpu' is no device", "cuda:0"}));
  options.device = "cuda:x";
  EXPECT_TRUE(
      Fails(MakeModelStage()->Load(options), absl::StatusCode::kInvalidArgument, {"cuda:0"}));
  options.device = "cpu";
  options.precision = DataType::kBF16;
  EXPECT_TRUE(Fails(MakeModelStage()->Load(options), absl::StatusCode::kInvalidArgument,
                    {"not in bf16", "--precision f32"}));
}

TEST(StageDevices, AreOneForAllOrOneAStage) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(*StageDevices("cpu", 2), (Names{"cpu", "cpu"}));
  EXPECT_EQ(*StageDevices("cuda:3", 2), (Names{"cuda:3", "cuda:3"}));
  EXPECT_EQ(*StageDevices("cuda", 3), (Names{"cuda:0", "cuda:1", "cuda:2"}));
  EXPECT_EQ(*StageDevices("cuda:1,cuda:0,cpu", 3), (Names{"cuda:1", "cuda:0", "cpu"}));
  EXPECT_TRUE(Fails(StageDevices("cuda:0,cuda:1", 3).status(), absl::StatusCode::kInvalidArgument,
                    {"names 2 devices for 3 stages", "one a stage"}));
  EXPECT_TRUE(Fails(StageDevices("cuda:0,", 2).status(), absl::StatusCode::kInvalidArgument,
                    {"'' is no device"}));
}

// Without CUDA in the build, or without a GPU in the machine.
TEST_F(ModelStageTest, SaysWhatToDoWithoutAGpu) {
  StageOptions options = Options();
  options.device = "cuda:0";
  const absl::StatusOr<StageInfo> info = MakeModelStage()->Load(options);
  if (info.ok()) GTEST_SKIP() << "there is a GPU";
  EXPECT_NE(Message(info.status()).find("CPU"), std::string::npos) << info.status();
}

}  // namespace
}  // namespace penstock
