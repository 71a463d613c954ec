// A request's tokens and log-probabilities are the same bits whatever is computed beside it: for
// each family, both prefill attentions, 1 or 2 threads, batches of 1 to 32, chunks of any size. And
// the comparison is one that fails: kernels that break the rule on purpose do not pass it.
//
// With padded prefill, prompts come in chunks of two tokens or more (ARCHITECTURE.md, invariant 5).
#include "core/kernels/cpu_ops.h"
#include "core/kernels/flash_attention.h"
#include "core/kernels/linear.h"
#include "tests/support/drive.h"
#include "tests/support/families.h"
#include "tests/support/model_stage.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr size_t kSequences = 32;
constexpr size_t kAnswer = 6;
constexpr int64_t kMaxTokens = 4096;  // all prompts at once

// The sanitizers make a token some twenty times as dear: a sample of the ways is enough there.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kEveryBatch = 15;
#else
constexpr size_t kEveryBatch = 1;
#endif

// How the sequences are run.
struct Way {
  size_t batch;
  int64_t chunk;
  bool staggered = false;  // begin one step after the other: prompts beside decodes
};

constexpr Way kAlone = {1, 1 << 20};
constexpr Way kSingleTokens = {4, 1};

// Every batch size, each with another chunk size of 2 to 96.
std::vector<Way> AllWays() {
  std::vector<Way> ways;
  for (size_t batch = 1; batch <= kSequences; batch += kEveryBatch) {
    ways.push_back({batch, static_cast<int64_t>(batch * 29 % 95) + 2, batch % 2 == 0});
  }
  ways.push_back({kSequences, 1 << 20});
  return ways;
}

// Prompts of 2 to 95 tokens, some longer than one tile of attention.
std::vector<Driven> Sequences(int64_t vocab_size, bool no_single) {
  std::vector<Driven> sequences;
  std::mt19937 engine(7);
  for (size_t i = 0; i < kSequences; ++i) {
    Driven sequence;
    for (size_t length = 2 + i * 3; length > 0; --length) {
      sequence.prompt.push_back(static_cast<int32_t>(engine() % static_cast<uint32_t>(vocab_size)));
    }
    sequence.no_single = no_single;
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

std::vector<Answer> Answers(StageExecutor& stage, const std::vector<Driven>& sequences, Way way,
                            int64_t context) {
  std::vector<Answer> answers;
  for (size_t first = 0; first < sequences.size(); first += way.batch) {
    const size_t count = std::min(way.batch, sequences.size() - first);
    std::vector<Driven> batch(sequences.begin() + static_cast<int64_t>(first),
                              sequences.begin() + static_cast<int64_t>(first + count));
    for (size_t i = 0; i < count; ++i) {
      batch[i].chunk = way.chunk;
      if (way.staggered) batch[i].delay = static_cast<int64_t>(i % 7);
    }
    Drive(stage, batch, kAnswer, context);
    for (const Driven& one : batch) answers.push_back(one.answer);
  }
  return answers;
}

size_t Different(const std::vector<Answer>& a, const std::vector<Answer>& b) {
  PENSTOCK_CHECK_EQ(a.size(), b.size());
  size_t different = 0;
  for (size_t i = 0; i < a.size(); ++i) different += a[i] == b[i] ? 0 : 1;
  return different;
}

class InvarianceTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<StageExecutor> Stage(PrefillAttention prefill, Ops& ops) const {
    ModelLimits limits;
    limits.max_tokens = kMaxTokens;
    limits.max_samples = kSequences;
    limits.prefill_attention = prefill;
    return std::make_unique<ModelStage>(family_.config, *family_.weights, limits, ops);
  }

  const Family family_ = OpenFamily(GetParam());
  const int64_t context_ = family_.config.context_length;
};

TEST_P(InvarianceTest, BatchesChunksAndThreadsChangeNoBit) {
  ThreadPool one(1);
  CpuOps one_thread(one);
  CpuOps two_threads(Pool());
  for (const auto prefill : {PrefillAttention::kFlash, PrefillAttention::kPadded}) {
    const bool padded = prefill == PrefillAttention::kPadded;
    const std::vector<Driven> sequences = Sequences(family_.config.vocab_size, padded);
    const auto stage = Stage(prefill, one_thread);
    const auto other = Stage(prefill, two_threads);
    const std::vector<Answer> alone = Answers(*stage, sequences, kAlone, context_);
    const auto expect_same = [&](StageExecutor& runs, const Way& way) {
      EXPECT_EQ(Different(Answers(runs, sequences, way, context_), alone), 0u)
          << (padded ? "padded" : "flash") << ", batches of " << way.batch << ", chunks of "
          << way.chunk;
    };
    for (const Way& way : AllWays()) expect_same(*other, way);
    expect_same(*stage, {7, 11, true});
    if (!padded) expect_same(*other, kSingleTokens);
  }
}

// The longest prompt in chunks of every size.
TEST_P(InvarianceTest, EveryChunkSizeChangesNoBit) {
  CpuOps ops(Pool());
  for (const auto prefill : {PrefillAttention::kFlash, PrefillAttention::kPadded}) {
    const bool padded = prefill == PrefillAttention::kPadded;
    const std::vector<Driven> longest = {Sequences(family_.config.vocab_size, padded).back()};
    const auto stage = Stage(prefill, ops);
    const std::vector<Answer> whole = Answers(*stage, longest, kAlone, context_);
    const auto length = static_cast<int64_t>(longest[0].prompt.size());
    for (int64_t chunk = padded ? 2 : 1; chunk < length; chunk += kEveryBatch) {
      EXPECT_EQ(Different(Answers(*stage, longest, {1, chunk}, context_), whole), 0u) << chunk;
    }
  }
}

// Resume after a preemption or a dead stage: prompt and answer so far come back as a prompt.
TEST_P(InvarianceTest, AReplayChangesNoBit) {
  CpuOps ops(Pool());
  const auto stage = Stage(PrefillAttention::kFlash, ops);
  const std::vector<Driven> sequences = Sequences(family_.config.vocab_size, false);
  const std::vector<Answer> whole = Answers(*stage, sequences, {8, 33}, context_);
  std::vector<Driven> resumed = sequences;
  for (size_t i = 0; i < resumed.size(); ++i) {
    const std::vector<int32_t>& tokens = whole[i].tokens;
    resumed[i].prompt.insert(resumed[i].prompt.end(), tokens.begin(),
                             tokens.begin() + static_cast<int64_t>(1 + i % (kAnswer - 1)));
  }
  const std::vector<Answer> rest = Answers(*stage, resumed, {8, 20, true}, context_);
  for (size_t i = 0; i < resumed.size(); ++i) {
    const auto cut = static_cast<int64_t>(1 + i % (kAnswer - 1));
    EXPECT_TRUE(
        std::equal(whole[i].tokens.begin() + cut, whole[i].tokens.end(), rest[i].tokens.begin()));
    EXPECT_TRUE(std::equal(whole[i].logprobs.begin() + cut, whole[i].logprobs.end(),
                           rest[i].logprobs.begin()));
  }
}

// The whole stage, its sampler included: greedy and seeded draws, penalties.
TEST_P(InvarianceTest, AStageGivesTheSameAnswers) {
  for (const auto prefill : {PrefillAttention::kFlash, PrefillAttention::kPadded}) {
    const auto load = [&](int threads) {
      StageOptions options;
      options.model = FamilyFolder(GetParam());
      options.kv_memory_bytes = int64_t{64} << 20;
      options.max_step_tokens = kMaxTokens;
      options.max_sequences = kSequences;
      options.threads = threads;
      options.prefill_attention = prefill;
      std::unique_ptr<StageExecutor> stage = MakeModelStage();
      EXPECT_TRUE(IsOk(stage->Load(options)));
      return stage;
    };
    std::vector<Driven> sequences =
        Sequences(family_.config.vocab_size, prefill == PrefillAttention::kPadded);
    for (size_t i = 0; i < sequences.size(); ++i) {
      SamplingParams& sampling = sequences[i].sampling;
      sampling.temperature = i % 4 == 0 ? 0.0f : 0.9f;
      sampling.top_p = i % 4 == 1 ? 0.8f : 1.0f;
      sampling.top_k = i % 4 == 2 ? 20 : 0;
      sampling.repetition_penalty = i % 4 == 3 ? 1.3f : 1.0f;
      sampling.frequency_penalty = i % 4 == 3 ? 0.4f : 0.0f;
      sampling.seed = i;
    }
    const std::vector<Answer> alone = Answers(*load(1), sequences, kAlone, context_);
    const auto stage = load(2);
    for (const Way& way : {Way{32, 5, true}, Way{8, 16, true}, Way{31, 1 << 20}}) {
      EXPECT_EQ(Different(Answers(*stage, sequences, way, context_), alone), 0u)
          << "batches of " << way.batch;
    }
  }
}

// A matrix product that sums in another order once a batch is large: what a library's GEMM does.
class BatchDependentOps final : public CpuOps {
 public:
  BatchDependentOps() : CpuOps(Pool()) {}
  void Linear(const Tensor& x, const Tensor& weight, const Tensor& out) override {
    if (x.dim(0) < 8) return CpuOps::Linear(x, weight, out);
    cpu::LinearReference(Pool(), x, weight, out);
  }
};

// Prefill attention whose order of sums is not decode's: a token's bits then depend on the chunk it
// came in.
class ChunkDependentOps final : public CpuOps {
 public:
  ChunkDependentOps() : CpuOps(Pool()) {}
  void FlashAttention(const AttentionArgs& args) override {
    cpu::FlashAttentionReference(Pool(), args);
  }
};

TEST_P(InvarianceTest, KernelsThatBreakTheRuleAreFound) {
  const std::vector<Driven> sequences = Sequences(family_.config.vocab_size, false);
  BatchDependentOps batch_dependent;
  const auto by_batch = Stage(PrefillAttention::kFlash, batch_dependent);
  const std::vector<Answer> alone = Answers(*by_batch, sequences, kSingleTokens, context_);
  EXPECT_GT(Different(Answers(*by_batch, sequences, {32, 1, true}, context_), alone), 0u);

  ChunkDependentOps chunk_dependent;
  const auto by_chunk = Stage(PrefillAttention::kFlash, chunk_dependent);
  const std::vector<Answer> whole = Answers(*by_chunk, sequences, kAlone, context_);
  EXPECT_GT(Different(Answers(*by_chunk, sequences, kSingleTokens, context_), whole), 0u);
}

INSTANTIATE_TEST_SUITE_P(All, InvarianceTest, ::testing::ValuesIn(FamilyNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace penstock
