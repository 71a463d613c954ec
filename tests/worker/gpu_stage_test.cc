// A stage on a GPU beside the same one on the CPU. Skipped where there is no GPU; the packaged
// model may be named by PENSTOCK_TEST_MODEL, where the tests run elsewhere than they were built.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "core/io/model_file.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/support/drive.h"
#include "tests/support/gpu.h"
#include "tests/support/replay_ahead.h"
#include "tests/support/run_ahead.h"
#include "tests/support/tiny_model.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

class GpuStageTest : public ::testing::Test {
 protected:
  // Several stages share a process and a GPU here: a kernel that is loaded while another stage's
  // waits for mail would wait for that one.
  static void SetUpTestSuite() { setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/1); }
  void SetUp() override {
    if (!GpuCall::Available()) GTEST_SKIP();
  }

  static StageOptions Options(const std::string& model, const std::string& device,
                              DataType precision) {
    StageOptions options;
    options.model = model;
    options.kv_memory_bytes = int64_t{1} << 30;
    options.max_step_tokens = 512;
    options.max_sequences = 8;
    options.device = device;
    options.precision = precision;
    return options;
  }
  static std::unique_ptr<StageExecutor> Loaded(const StageOptions& options) {
    std::unique_ptr<StageExecutor> stage = MakeModelStage();
    const absl::StatusOr<StageInfo> info = stage->Load(options);
    EXPECT_TRUE(IsOk(info));
    if (!info.ok()) return nullptr;
    return stage;
  }
};

std::vector<Driven> TinySequences() {
  std::vector<Driven> sequences;
  for (int32_t i = 0; i < 8; ++i) {
    Driven sequence;
    for (int32_t k = 0; k < 3 + i * 11; ++k) {
      sequence.prompt.push_back((i + k * k * 7) % static_cast<int32_t>(kTinyVocab));
    }
    sequence.sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
    sequence.sampling.top_p = i == 3 ? 0.9f : 1.0f;
    sequence.sampling.top_k = i == 5 ? 20 : 0;
    if (i == 7) sequence.sampling.repetition_penalty = 1.3f;
    sequence.sampling.seed = static_cast<uint64_t>(i);
    sequence.chunk = 1 + i * 5;
    sequence.delay = i % 3;
    sequences.push_back(sequence);
  }
  return sequences;
}

TEST_F(GpuStageTest, Float32GivesWhatTheCpuGives) {
  const TempFile file(TinyModel().Build());
  std::vector<Driven> expected = TinySequences();
  const auto cpu = Loaded(Options(file.path(), "cpu", DataType::kF32));
  ASSERT_NE(cpu, nullptr);
  ASSERT_NO_FATAL_FAILURE(Drive(*cpu, expected, 40, kTinyContext));
  for (const PrefillAttention attention : {PrefillAttention::kFlash, PrefillAttention::kPadded}) {
    StageOptions options = Options(file.path(), "cuda:0", DataType::kF32);
    options.prefill_attention = attention;
    const auto gpu = Loaded(options);
    ASSERT_NE(gpu, nullptr);
    std::vector<Driven> got = TinySequences();
    ASSERT_NO_FATAL_FAILURE(Drive(*gpu, got, 40, kTinyContext));
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].answer.tokens, expected[i].answer.tokens) << "sequence " << i;
      for (size_t t = 0; t < got[i].answer.logprobs.size(); ++t) {
        ASSERT_NEAR(got[i].answer.logprobs[t], expected[i].answer.logprobs[t], 1e-3)
            << "sequence " << i << ", token " << t;
      }
    }
  }
}

TEST_F(GpuStageTest, TheSameStepsGiveTheSameBits) {
  const TempFile file(TinyModel().Build());
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    std::vector<Answer> answers[2];
    for (std::vector<Answer>& run : answers) {
      const auto gpu = Loaded(Options(file.path(), "cuda:0", type));
      ASSERT_NE(gpu, nullptr);
      std::vector<Driven> sequences = TinySequences();
      ASSERT_NO_FATAL_FAILURE(Drive(*gpu, sequences, 40, kTinyContext));
      for (const Driven& sequence : sequences) run.push_back(sequence.answer);
    }
    EXPECT_EQ(answers[0], answers[1]) << Name(type);
  }
}

// Many sequences that come and go, of every way to choose a token.
std::vector<Driven> ManySequences() {
  std::vector<Driven> sequences;
  for (int32_t i = 0; i < 21; ++i) {
    Driven sequence;
    for (int32_t k = 0; k < 2 + i * 5; ++k) {
      sequence.prompt.push_back((3 * i + k * k * 5) % static_cast<int32_t>(kTinyVocab));
    }
    SamplingParams& sampling = sequence.sampling;
    sampling.temperature = i % 3 == 0 ? 0.0f : 0.9f;
    if (i % 4 == 1) sampling.repetition_penalty = 1.3f;
    if (i % 5 == 2) sampling.presence_penalty = 0.5f;
    if (i % 7 == 3) sampling.frequency_penalty = 0.3f;
    if (i % 6 == 5) sampling.logit_bias = {{i, 2.0f}};
    sampling.logprobs = i % 9 == 8 ? 3 : 0;
    sampling.seed = static_cast<uint64_t>(i);
    sequence.chunk = 1 + i * 3;
    sequence.delay = i * 2;
    sequences.push_back(sequence);
  }
  return sequences;
}

// A step has the same bits as a graph and kernel by kernel, whatever the padding; and what runs
// takes no memory of the GPU that was not taken when the stage was ready.
TEST_F(GpuStageTest, GraphsGiveTheBitsOfLaunches) {
  const TempFile file(TinyModel().Build());
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    std::vector<Answer> answers[2];
    for (const bool graphs : {false, true}) {
      StageOptions options = Options(file.path(), "cuda:0", type);
      options.max_sequences = 21;
      options.graphs = graphs;
      const auto gpu = Loaded(options);
      ASSERT_NE(gpu, nullptr);
      const int64_t bytes = GpuCall::BytesInUse();
      std::vector<Driven> sequences = ManySequences();
      ASSERT_NO_FATAL_FAILURE(Drive(*gpu, sequences, 60, kTinyContext));
      EXPECT_EQ(GpuCall::BytesInUse() - bytes, 0) << Name(type) << (graphs ? ", graphs" : "");
      for (const Driven& sequence : sequences) answers[graphs].push_back(sequence.answer);
    }
    EXPECT_EQ(answers[0], answers[1]) << Name(type);
  }
}

// Five rows, of a stage that takes five and of one that pads them to six.
TEST_F(GpuStageTest, PaddingChangesNoBit) {
  const TempFile file(TinyModel().Build());
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    std::vector<Answer> answers[2];
    for (const bool padded : {false, true}) {
      StageOptions options = Options(file.path(), "cuda:0", type);
      options.max_sequences = padded ? 8 : 5;
      const auto gpu = Loaded(options);
      ASSERT_NE(gpu, nullptr);
      std::vector<Driven> sequences = TinySequences();
      sequences.resize(5);
      ASSERT_NO_FATAL_FAILURE(Drive(*gpu, sequences, 40, kTinyContext));
      for (const Driven& sequence : sequences) answers[padded].push_back(sequence.answer);
    }
    EXPECT_EQ(answers[0], answers[1]) << Name(type);
  }
}

// The same plans, two ahead, through one stage and through several, which hand their rows on by way
// of the host, by mailboxes on the GPU, or from kernel to kernel: the same bits, and no memory of
// the GPU that was not taken when they were ready.
TEST_F(GpuStageTest, SeveralStagesGiveTheBitsOfOne) {
  const TempFile file(TinyModel(2, /*v_as_q8_0=*/true, /*num_layers=*/4).Build());
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    std::vector<Answer> whole;
    struct Way {
      std::vector<int64_t> cuts;
      int64_t mailbox_bytes;
      bool device_mail;
    };
    constexpr int64_t kMailbox = int64_t{2} << 20;
    const std::vector<Way> ways = {{{}, 0, false},
                                   {{2}, 0, false},
                                   {{1}, 0, false},
                                   {{1, 2, 3}, 0, false},
                                   {{2}, kMailbox, false},
                                   {{1}, kMailbox, false},
                                   {{1, 2, 3}, kMailbox, false},
                                   {{2}, kMailbox, true},
                                   {{1}, kMailbox, true},
                                   {{1, 2, 3}, kMailbox, true}};
    for (const auto& [cuts, mailbox_bytes, device_mail] : ways) {
      StageOptions options = Options(file.path(), "cuda:0", type);
      options.plans_ahead = 4;
      options.mailbox_bytes = mailbox_bytes;
      options.device_mail = device_mail;
      LocalPipeline pipeline(options, Split(4, cuts));
      ASSERT_FALSE(HasFailure());
      const int64_t bytes = GpuCall::BytesInUse();
      std::vector<Driven> sequences = TinySequences();
      RunAhead run(/*depth=*/2, /*groups=*/2);
      ASSERT_NO_FATAL_FAILURE(run.Run(pipeline, sequences, 40, kTinyContext, 1, 1));
      EXPECT_EQ(GpuCall::BytesInUse() - bytes, 0) << Name(type);
      std::vector<Answer> answers;
      for (const Driven& sequence : sequences) answers.push_back(sequence.answer);
      if (cuts.empty()) whole = answers;
      EXPECT_EQ(answers, whole) << Name(type) << ", " << cuts.size() + 1 << " stages, mailboxes of "
                                << mailbox_bytes << (device_mail ? ", kernel to kernel" : "");
    }
  }
}

// Alone on its GPU a stage begins a plan while the one before it runs, and its rows feed tokens
// that the host does not know. The same tokens, ends and voids as when each plan is waited for.
TEST_F(GpuStageTest, PlansThatAreBegunAheadGiveTheSameBits) {
  const TempFile file(TinyModel(2, false, 4).Build());
  for (const DataType type : {DataType::kF32, DataType::kBF16}) {
    for (const bool graphs : {false, true}) {
      StageOptions options = Options(file.path(), "cuda:0", type);
      options.graphs = graphs;
      options.plans_ahead = 2;
      std::vector<Driven> sequences = TinySequences();
      for (Driven& sequence : sequences) sequence.sampling.repetition_penalty = 1;
      LocalPipeline pipeline(options, Split(4, {}));
      ASSERT_FALSE(HasFailure());
      const int64_t bytes = GpuCall::BytesInUse();
      std::vector<Driven> first = sequences;
      RunAhead probe(/*depth=*/2);
      ASSERT_NO_FATAL_FAILURE(probe.Run(pipeline, first, 40, kTinyContext, 1, 1));
      // Some of them end early, while rows that feed what comes then are on their way.
      for (const size_t i : {size_t{1}, size_t{4}}) {
        sequences[i].sampling.stop_ids = {first[i].answer.tokens[5]};
      }
      RunAhead run(/*depth=*/2);
      ASSERT_NO_FATAL_FAILURE(
          run.Run(pipeline, sequences, 40, kTinyContext, 2, probe.plans().back().number + 1));
      EXPECT_GT(run.voids(), 0);
      EXPECT_EQ(GpuCall::BytesInUse() - bytes, 0);

      const auto waited = Loaded(options);
      ASSERT_NE(waited, nullptr);
      for (size_t n = 0; n < run.plans().size(); ++n) {
        const absl::StatusOr<StepResult> result = waited->Execute(run.plans()[n]);
        ASSERT_TRUE(IsOk(result));
        ExpectSame({*result}, {run.results()[n]});
      }
      const auto begun = Loaded(options);
      ASSERT_NE(begun, nullptr);
      Replay replay;
      ASSERT_NO_FATAL_FAILURE(ReplayAhead(*begun, run.plans(), &replay));
      ExpectSame(replay.results, run.results());
      EXPECT_GT(replay.fed, 0);
      EXPECT_EQ(begun->voids(), run.voids());
    }
  }
}

// Heads of 64, and contexts of several segments of attention.
class InvariantStageTest : public GpuStageTest {
 protected:
  static constexpr int64_t kContext = 1024;
  static constexpr size_t kAnswer = 48;

  static GgufBuilder Model() { return TinyModel(2, false, 2, 256, kContext); }

  static std::vector<Driven> Sequences() {
    std::vector<Driven> sequences = TinySequences();
    for (size_t i = 0; i < sequences.size(); ++i) {
      Driven& sequence = sequences[i];
      while (sequence.prompt.size() < 30 * i * i % 700) {
        const auto k = static_cast<int32_t>(sequence.prompt.size());
        sequence.prompt.push_back((k * k + 3 * k) % static_cast<int32_t>(kTinyVocab));
      }
      sequence.chunk = static_cast<int64_t>(1 + i * 9);
    }
    return sequences;
  }
  static std::unique_ptr<StageExecutor> Start(const std::string& model, DataType type,
                                              bool invariant) {
    StageOptions options = Options(model, "cuda:0", type);
    options.invariant = invariant;
    return Loaded(options);
  }
  // A sequence by itself, its prompt in few chunks, resumed after so many tokens of the answer.
  static Answer Alone(StageExecutor& stage, Driven sequence, const Answer& known, size_t resumed) {
    sequence.delay = 0;
    sequence.chunk = 300;
    sequence.prompt.insert(sequence.prompt.end(), known.tokens.begin(),
                           known.tokens.begin() + static_cast<int64_t>(resumed));
    std::vector<Driven> one = {sequence};
    Drive(stage, one, kAnswer - resumed, kContext);
    return one[0].answer;
  }
};

TEST_F(InvariantStageTest, ATokenHasTheSameBitsHoweverItIsComputed) {
  const TempFile file(Model().Build());
  for (const DataType type : {DataType::kF16, DataType::kBF16}) {
    const auto stage = Start(file.path(), type, /*invariant=*/true);
    ASSERT_NE(stage, nullptr);
    const int64_t bytes = GpuCall::BytesInUse();
    std::vector<Driven> together = Sequences();
    ASSERT_NO_FATAL_FAILURE(Drive(*stage, together, kAnswer, kContext));
    const std::vector<Driven> sequences = Sequences();
    for (size_t i = 0; i < sequences.size(); ++i) {
      const Answer& expected = together[i].answer;
      EXPECT_EQ(Alone(*stage, sequences[i], expected, 0), expected) << Name(type) << ", " << i;
      if (sequences[i].sampling.needs_history()) continue;
      // What a preemption, a prefix hit or a new stage makes of it.
      for (const size_t resumed : {size_t{1}, size_t{20}}) {
        const auto from = static_cast<int64_t>(resumed);
        const Answer rest = {{expected.tokens.begin() + from, expected.tokens.end()},
                             {expected.logprobs.begin() + from, expected.logprobs.end()}};
        EXPECT_EQ(Alone(*stage, sequences[i], expected, resumed), rest)
            << Name(type) << ", " << i << " resumed at " << resumed;
      }
    }
    EXPECT_EQ(GpuCall::BytesInUse() - bytes, 0) << Name(type);
  }
}

// So the test above can fail.
TEST_F(InvariantStageTest, OtherwiseSomeBitsDiffer) {
  const TempFile file(Model().Build());
  const auto stage = Start(file.path(), DataType::kBF16, /*invariant=*/false);
  ASSERT_NE(stage, nullptr);
  std::vector<Driven> together = Sequences();
  ASSERT_NO_FATAL_FAILURE(Drive(*stage, together, kAnswer, kContext));
  size_t same = 0;
  const std::vector<Driven> sequences = Sequences();
  for (size_t i = 0; i < sequences.size(); ++i) {
    same += Alone(*stage, sequences[i], together[i].answer, 0) == together[i].answer ? 1 : 0;
  }
  EXPECT_LT(same, sequences.size());
}

TEST_F(InvariantStageTest, RefusesWhatItHasNoKernelsFor) {
  const TempFile narrow(TinyModel().Build());
  StageOptions options = Options(narrow.path(), "cuda:0", DataType::kBF16);
  options.invariant = true;
  EXPECT_TRUE(Fails(MakeModelStage()->Load(options), absl::StatusCode::kUnimplemented,
                    {"--invariant", "heads of 16"}));
  const TempFile file(Model().Build());
  options.model = file.path();
  options.precision = DataType::kF32;
  EXPECT_TRUE(Fails(MakeModelStage()->Load(options), absl::StatusCode::kUnimplemented,
                    {"--invariant", "--precision bf16"}));
  options.precision = DataType::kBF16;
  options.prefill_attention = PrefillAttention::kPadded;
  EXPECT_TRUE(Fails(MakeModelStage()->Load(options), absl::StatusCode::kInvalidArgument,
                    {"--invariant", "--prefill-attention padded"}));
}

TEST_F(GpuStageTest, TakesWhatIsLeftForKv) {
  const TempFile file(TinyModel().Build());
  StageOptions options = Options(file.path(), "cuda:0", DataType::kBF16);
  options.kv_memory_bytes = 0;
  const auto stage = MakeModelStage();
  const absl::StatusOr<StageInfo> info = stage->Load(options);
  ASSERT_TRUE(IsOk(info));
  EXPECT_EQ(info->num_blocks, 8 * BlocksFor(kTinyContext));  // all that requests can use
  options.kv_memory_bytes = int64_t{1} << 50;
  options.max_sequences = 1000;
  options.num_blocks = int64_t{1} << 40;
  EXPECT_TRUE(Fails(MakeModelStage()->Load(options), absl::StatusCode::kResourceExhausted,
                    {"cuda:0 has", "MiB for KV", "--kv-memory-mib"}));
}

TEST_F(GpuStageTest, RefusesWhatAGpuCannotDo) {
  const TempFile file(TinyModel().Build());
  StageOptions options = Options(file.path(), "cuda:77", DataType::kF32);
  EXPECT_TRUE(Fails(MakeModelStage()->Load(options), absl::StatusCode::kInvalidArgument,
                    {"no GPU 77", "CUDA_VISIBLE_DEVICES"}));
  options.device = "cuda:0";
  options.max_sequences = 5000;
  EXPECT_TRUE(Fails(MakeModelStage()->Load(options), absl::StatusCode::kInvalidArgument,
                    {"--max-sequences"}));
}

// The packaged model, greedy: how far the GPU's answers go with the CPU's.
class GpuModelTest : public GpuStageTest {
 protected:
  static constexpr size_t kTokens = 64;
  static constexpr const char* kPrompts[] = {"The capital of France is",
                                             "Once upon a time, in a small village,",
                                             "def fibonacci(n):",
                                             "Water boils at a temperature of",
                                             "The three primary colors are",
                                             "My favourite book is about a young girl who",
                                             "In 1969, the first man walked on",
                                             "To bake bread one needs flour, water, salt and"};

  void SetUp() override {
    GpuStageTest::SetUp();
    if (IsSkipped()) return;
    const char* const path = std::getenv("PENSTOCK_TEST_MODEL");
    model_ = path != nullptr ? path : PENSTOCK_TEST_MODEL;
    ASSERT_FALSE(model_.empty()) << "configure with -DPENSTOCK_MODEL=$(scripts/fetch-model)";
    auto file = OpenTokenizer(model_);
    ASSERT_TRUE(IsOk(file));
    auto tokenizer = MakeTokenizer(std::move(file->spec));
    ASSERT_TRUE(IsOk(tokenizer));
    for (const char* prompt : kPrompts) {
      auto ids = (*tokenizer)->Encode(prompt, /*parse_special=*/false);
      ASSERT_TRUE(IsOk(ids));
      prompts_.push_back(*std::move(ids));
    }
  }

  std::vector<Driven> Sequences(size_t count) const {
    std::vector<Driven> sequences(count);
    for (size_t i = 0; i < count; ++i) {
      sequences[i].prompt = prompts_[i];
      sequences[i].sampling.temperature = 0;
    }
    return sequences;
  }

  // Answers to all prompts at once; prints the rate, and that of a single one.
  std::vector<Answer> Run(const std::string& device, DataType type) const {
    const auto stage = Loaded(Options(model_, device, type));
    if (stage == nullptr) return {};
    std::vector<Answer> answers;
    for (const size_t count : {size_t{1}, size_t{1}, prompts_.size()}) {
      std::vector<Driven> sequences = Sequences(count);
      const auto start = std::chrono::steady_clock::now();
      Drive(*stage, sequences, kTokens, 2048);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      std::printf("%s %s, %zu sequences: %.0f tokens/s, prompts included\n", device.c_str(),
                  std::string(Name(type)).c_str(), count,
                  static_cast<double>(count * kTokens) / seconds.count());
      answers.clear();
      for (const Driven& sequence : sequences) answers.push_back(sequence.answer);
    }
    return answers;
  }

  // How many of the prompts have the same answer; prints where the others part.
  static size_t Agreeing(const std::vector<Answer>& got, const std::vector<Answer>& expected) {
    size_t whole = 0;
    for (size_t i = 0; i < expected.size() && i < got.size(); ++i) {
      const std::vector<int32_t>& a = got[i].tokens;
      const std::vector<int32_t>& b = expected[i].tokens;
      const auto part = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
      if (part.first == a.end()) {
        ++whole;
        continue;
      }
      const auto at = part.first - a.begin();
      std::printf("prompt %zu parts at token %td: %d, not %d (logprobs %.4f and %.4f)\n", i, at,
                  *part.first, *part.second, got[i].logprobs[static_cast<size_t>(at)],
                  expected[i].logprobs[static_cast<size_t>(at)]);
    }
    return whole;
  }

  std::string model_;
  std::vector<std::vector<int32_t>> prompts_;
};

TEST_F(GpuModelTest, AnswersAsTheCpuDoes) {
  const std::vector<Answer> expected = Run("cpu", DataType::kF32);
  ASSERT_EQ(expected.size(), prompts_.size());
  EXPECT_GE(Agreeing(Run("cuda:0", DataType::kF32), expected), prompts_.size() - 1);
  for (const DataType type : {DataType::kF16, DataType::kBF16}) {
    const std::vector<Answer> got = Run("cuda:0", type);
    ASSERT_EQ(got.size(), expected.size());
    std::printf("%s: %zu of %zu answers are the CPU's\n", std::string(Name(type)).c_str(),
                Agreeing(got, expected), expected.size());
    // The first token comes of a prompt that both have.
    for (size_t i = 0; i < got.size(); ++i) {
      if (got[i].tokens[0] != expected[i].tokens[0]) continue;
      EXPECT_NEAR(got[i].logprobs[0], expected[i].logprobs[0], type == DataType::kF16 ? 0.02 : 0.2);
    }
  }
}

}  // namespace
}  // namespace penstock
