// A pipeline gives the bits of one stage: tokens and log-probabilities, for 1 to 4 stages, any
// batch and chunk, plans that run ahead, sequences that end while later plans are on their way.
#include <algorithm>

#include "tests/support/families.h"
#include "tests/support/nccl_endpoint.h"
#include "tests/support/replay_ahead.h"
#include "tests/support/run_ahead.h"
#include "tests/support/tiny_model.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr int32_t kPlansAhead = 4;
constexpr size_t kAnswer = 12;

// The sanitizers make a token some twenty times as dear: a sample of the ways is enough there.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kEveryDepth = 3;
constexpr size_t kEveryGroups = 2;
#else
constexpr int64_t kEveryDepth = 1;
constexpr size_t kEveryGroups = 1;
#endif

StageOptions Options(const std::string& model) {
  StageOptions options;
  options.model = model;
  options.kv_memory_bytes = 16 << 20;
  options.max_step_tokens = 256;
  options.max_sequences = 8;
  options.threads = 1;
  options.plans_ahead = kPlansAhead;
  return options;
}

// Greedy and seeded draws, penalties and bad words (which need the history), top log-probabilities.
std::vector<Driven> Sequences(int64_t vocab_size, size_t count = 8) {
  std::vector<Driven> sequences;
  for (size_t i = 0; i < count; ++i) {
    Driven sequence;
    for (size_t t = 0; t < 1 + i * 9; ++t) {
      sequence.prompt.push_back(static_cast<int32_t>((i * 31 + t * t * 7 + 3) % vocab_size));
    }
    SamplingParams& sampling = sequence.sampling;
    sampling.temperature = i % 3 == 0 ? 0.0f : 0.9f;
    sampling.seed = i;
    if (i % 3 == 1) sampling.top_p = 0.9f;
    if (i % 4 == 2) sampling.repetition_penalty = 1.3f;
    if (i % 4 == 3) {
      sampling.frequency_penalty = 0.4f;
      sampling.bad_words = {{1, 2}, {5}};
    }
    sequence.chunk = static_cast<int64_t>(3 + i * 4);
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

// Of one whole stage, each sequence alone, its prompt at once and no plan ahead.
std::vector<Answer> Expected(const std::string& model, const std::vector<Driven>& sequences) {
  const auto stage = MakeModelStage();
  const auto info = stage->Load(Options(model));
  EXPECT_TRUE(IsOk(info));
  std::vector<Answer> answers;
  for (Driven sequence : sequences) {
    sequence.chunk = 256;
    std::vector<Driven> one = {sequence};
    Drive(*stage, one, kAnswer, info->config.context_length);
    answers.push_back(one[0].answer);
  }
  return answers;
}

std::vector<Answer> AnswersOf(const std::vector<Driven>& sequences) {
  std::vector<Answer> answers;
  for (const Driven& sequence : sequences) answers.push_back(sequence.answer);
  return answers;
}

// One pipeline, run again and again in epoch after epoch.
class Runs {
 public:
  Runs(const StageOptions& options, const std::vector<LayerRange>& ranges)
      : pipeline_(options, ranges) {}

  // The plans and results of the run are in `run`.
  std::vector<Answer> Run(std::vector<Driven> sequences, RunAhead& run) {
    ++epoch_;
    run.Run(pipeline_, sequences, kAnswer, pipeline_.info().config.context_length, epoch_, first_);
    first_ += run.plans().size();
    return AnswersOf(sequences);
  }
  LocalPipeline& pipeline() { return pipeline_; }

 private:
  LocalPipeline pipeline_;
  uint32_t epoch_ = 0;
  uint64_t first_ = 1;
};

void ExpectTheBitsOfOneStage(const std::string& model, int64_t num_layers,
                             const std::vector<std::vector<int64_t>>& cuts,
                             int64_t mailbox_bytes = 0, bool device_mail = false,
                             bool nccl = false) {
  const auto file = MakeModelStage()->Load(Options(model));
  ASSERT_TRUE(IsOk(file));
  ASSERT_EQ(file->config.num_layers, num_layers);
  const std::vector<Driven> sequences = Sequences(file->config.vocab_size);
  const std::vector<Answer> expected = Expected(model, sequences);
  for (const std::vector<int64_t>& cut : cuts) {
    StageOptions options = Options(model);
    options.mailbox_bytes = mailbox_bytes;
    options.device_mail = device_mail;
    options.nccl = nccl;
    Runs runs(options, Split(num_layers, cut));
    for (int64_t depth = 1; depth <= kPlansAhead; depth += kEveryDepth) {
      for (size_t groups = 1; groups <= 3; groups += kEveryGroups) {
        for (const bool eager : {false, true}) {
          RunAhead run(depth, groups, eager);
          EXPECT_EQ(runs.Run(sequences, run), expected)
              << cut.size() + 1 << " stages, " << depth << " plans ahead, " << groups
              << " groups, eager " << eager;
          const bool fed =
              std::any_of(run.plans().begin(), run.plans().end(), [](const auto& plan) {
                return std::any_of(plan.rows.begin(), plan.rows.end(),
                                   [](const PlanRow& row) { return row.token_from != 0; });
              });
          const auto plans = static_cast<int64_t>(groups);
          EXPECT_TRUE(fed || (eager ? depth < plans : depth <= plans));
          EXPECT_EQ(run.voids(), 0);
        }
      }
    }
  }
}

TEST(Pipeline, GivesTheBitsOfOneStage) {
  const TempFile file(TinyModel(2, /*v_as_q8_0=*/true, 4).Build());
  ExpectTheBitsOfOneStage(file.path(), 4, {{}, {1}, {2}, {3}, {1, 2}, {1, 3}, {1, 2, 3}});
}

// Rows by shared memory, through a mailbox with room for one of the largest transfers.
TEST(Pipeline, GivesTheBitsOfOneStageByPeerMemory) {
  const TempFile file(TinyModel(2, /*v_as_q8_0=*/true, 4).Build());
  const auto info = MakeModelStage()->Load(Options(file.path()));
  ASSERT_TRUE(IsOk(info));
  const int64_t largest = Options(file.path()).max_step_tokens * info->config.hidden_size * 4;
  ExpectTheBitsOfOneStage(file.path(), 4, {{2}, {1, 2, 3}}, largest);
  ExpectTheBitsOfOneStage(file.path(), 4, {{2}, {1, 2, 3}}, largest, /*device_mail=*/true);
}

// Rows by what stands for NCCL.
TEST(Pipeline, GivesTheBitsOfOneStageByNccl) {
  const ScopedVariable library("PENSTOCK_NCCL_LIBRARY", PENSTOCK_FAKE_NCCL);
  const TempFile file(TinyModel(2, /*v_as_q8_0=*/true, 4).Build());
  ExpectTheBitsOfOneStage(file.path(), 4, {{2}, {1, 2, 3}}, 0, /*device_mail=*/false,
                          /*nccl=*/true);
}

TEST(Pipeline, GivesTheBitsOfOneStageWhereTheHeadIsNotTied) {
  ExpectTheBitsOfOneStage("dummy:tiny", 4, {{2}, {1, 2}});
}

class FamilyPipelineTest : public ::testing::TestWithParam<std::string> {};

TEST_P(FamilyPipelineTest, GivesTheBitsOfOneStage) {
  ExpectTheBitsOfOneStage(FamilyFolder(GetParam()), 2, {{}, {1}});
}

INSTANTIATE_TEST_SUITE_P(All, FamilyPipelineTest, ::testing::ValuesIn(FamilyNames()),
                         [](const auto& info) { return info.param; });

TEST(Pipeline, GivesTheBitsOfOneStageOfThePackagedModel) {
  if (std::string(PENSTOCK_TEST_MODEL).empty()) GTEST_SKIP() << "no packaged model";
  StageOptions options = Options(PENSTOCK_TEST_MODEL);
  options.kv_memory_bytes = 256 << 20;
  std::vector<Driven> sequences = Sequences(1000, 3);
  const auto stage = MakeModelStage();
  const auto info = stage->Load(options);
  ASSERT_TRUE(IsOk(info));
  std::vector<Driven> expected = sequences;
  Drive(*stage, expected, 5, 256);
  LocalPipeline pipeline(options, Split(info->config.num_layers, {7, 19}));
  RunAhead run(3, 2);
  run.Run(pipeline, sequences, 5, 256, 1, 1);
  EXPECT_EQ(AnswersOf(sequences), AnswersOf(expected));
  int64_t weights = 0;
  for (size_t i = 0; i < 3; ++i) {
    weights += pipeline.info(i).weight_bytes;
    EXPECT_EQ(pipeline.info(i).model_hash, info->model_hash);
  }
  EXPECT_GT(weights, info->weight_bytes);  // the tied table, twice
  EXPECT_LT(pipeline.info(1).weight_bytes, info->weight_bytes / 2);
}

// A stop id ends its sequence at the last stage: rows behind it that are on their way are void, and
// everybody else keeps every bit.
class StopTest : public ::testing::Test {
 protected:
  StopTest() {
    sequences_[1].sampling.stop_ids = Sorted({full_[1].tokens[0]});
    sequences_[2].sampling.stop_ids = Sorted({full_[2].tokens[3], full_[2].tokens[6]});
    sequences_[4].sampling.stop_ids = Sorted({full_[4].tokens[kAnswer - 2]});
    sequences_[6].sampling.stop_ids = Sorted({full_[6].tokens[1]});
    sequences_[6].sampling.min_tokens = 4;
    // What a stop id leaves of it; min_tokens mask it before, which changes the answer.
    expected_ = Expected(file_.path(), sequences_);
    for (size_t i = 0; i < sequences_.size(); ++i) {
      std::vector<int32_t>& tokens = expected_[i].tokens;
      const std::vector<int32_t>& stops = sequences_[i].sampling.stop_ids;
      const auto end = std::find_first_of(tokens.begin(), tokens.end(), stops.begin(), stops.end());
      if (end == tokens.end()) continue;
      tokens.erase(end + 1, tokens.end());
      expected_[i].logprobs.resize(tokens.size());
    }
  }
  static std::vector<int32_t> Sorted(std::vector<int32_t> ids) {
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
  }

  const TempFile file_{TinyModel(2, false, 4).Build()};
  std::vector<Driven> sequences_ = Sequences(kTinyVocab);
  const std::vector<Answer> full_ = Expected(file_.path(), sequences_);
  std::vector<Answer> expected_;
};

TEST_F(StopTest, RowsBehindAStopIdAreVoidAndChangeNobodysBits) {
  ASSERT_EQ(expected_[1].tokens.size(), 1u);
  ASSERT_GE(expected_[6].tokens.size(), 4u);
  struct Way {
    std::vector<int64_t> cut;
    bool by_mail;
  };
  for (const auto& [cut, by_mail] :
       std::vector<Way>{{{}, false}, {{2}, false}, {{1, 3}, false}, {{2}, true}, {{1, 3}, true}}) {
    StageOptions options = Options(file_.path());
    options.device_mail = by_mail;
    options.mailbox_bytes = by_mail ? 1 << 20 : 0;
    Runs runs(options, Split(4, cut));
    int64_t voids = 0;
    for (int64_t depth = 1; depth <= kPlansAhead; ++depth) {
      RunAhead run(depth);
      EXPECT_EQ(runs.Run(sequences_, run), expected_) << cut.size() + 1 << " stages, " << depth;
      // One row for each plan that is on its way when the end is sampled, as far as there are any.
      EXPECT_EQ(run.voids() > 0, depth > 1);
      EXPECT_GE(run.voids(), (depth - 1) * 2);
      voids += run.voids();
    }
    LocalPipeline& pipeline = runs.pipeline();
    for (size_t i = 0; i < pipeline.num_stages(); ++i) {
      // By mail the first stage does not know.
      const bool knows = (i == 0 && !by_mail) || i + 1 == pipeline.num_stages();
      EXPECT_EQ(pipeline.stage(i).beat().voids, knows ? voids : 0) << "stage " << i;
    }
  }
}

// What a pipeline was told, one stage alone does again: how a recorded run is looked into.
TEST_F(StopTest, OneStageReplaysThePlansOfAPipeline) {
  Runs runs(Options(file_.path()), Split(4, {1, 3}));
  RunAhead run(4, 1, true);
  EXPECT_EQ(runs.Run(sequences_, run), expected_);
  EXPECT_GT(run.voids(), 0);
  const auto stage = MakeModelStage();
  ASSERT_TRUE(IsOk(stage->Load(Options(file_.path()))));
  ASSERT_EQ(run.plans().size(), run.results().size());
  for (size_t n = 0; n < run.plans().size(); ++n) {
    const auto result = stage->Execute(run.plans()[n]);
    ASSERT_TRUE(IsOk(result));
    const std::vector<SampledToken>& samples = run.results()[n].samples;
    ASSERT_EQ(result->samples.size(), samples.size());
    for (size_t i = 0; i < samples.size(); ++i) {
      EXPECT_EQ(result->samples[i].slot, samples[i].slot);
      EXPECT_EQ(result->samples[i].position, samples[i].position);
      EXPECT_EQ(result->samples[i].token, samples[i].token);
      EXPECT_EQ(result->samples[i].logprob, samples[i].logprob);
    }
  }
  EXPECT_EQ(stage->voids(), run.voids());
}

// The same plans, each begun before the one before it is finished where that can be: what a GPU
// does all the time. Rows behind a stop id are begun before it is known, and void all the same. Who
// has penalties is waited for.
TEST_F(StopTest, PlansThatAreBegunAheadGiveTheSame) {
  for (const bool penalties : {false, true}) {
    for (Driven& sequence : sequences_) {
      if (penalties) break;
      sequence.sampling.repetition_penalty = 1;
      sequence.sampling.frequency_penalty = 0;
      sequence.sampling.bad_words.clear();
    }
    Runs runs(Options(file_.path()), Split(4, {}));
    RunAhead run(2, 1, true);
    static_cast<void>(runs.Run(sequences_, run));
    const auto stage = MakeModelStage();
    ASSERT_TRUE(IsOk(stage->Load(Options(file_.path()))));
    Replay replay;
    ASSERT_NO_FATAL_FAILURE(ReplayAhead(*stage, run.plans(), &replay));
    ExpectSame(replay.results, run.results());
    EXPECT_EQ(stage->voids(), run.voids());
    EXPECT_GT(run.voids(), 0);
    EXPECT_GT(replay.ahead, 0);
    EXPECT_GT(replay.fed, 0);
    sequences_ = Sequences(kTinyVocab);
    sequences_[1].sampling.stop_ids = Sorted({full_[1].tokens[2]});
  }
}

// A row whose numbers fail ends its sequence in the same way, and no other.
TEST(Pipeline, RowsBehindAFailedOneAreVoidAndChangeNobodysBits) {
  const TempFile file(ModelWithABrokenToken(4));
  std::vector<Driven> sequences = Sequences(kTinyVocab);
  for (Driven& sequence : sequences) {
    std::replace(sequence.prompt.begin(), sequence.prompt.end(), 5, 6);
    sequence.sampling.bad_words = {{5}};
  }
  std::vector<Answer> expected = Expected(file.path(), sequences);
  sequences[3].prompt[20] = 5;
  expected[3] = {};
  for (const std::vector<int64_t>& cut : std::vector<std::vector<int64_t>>{{}, {2}, {1, 3}}) {
    Runs runs(Options(file.path()), Split(4, cut));
    for (const int64_t depth : {1, 3}) {
      RunAhead run(depth);
      EXPECT_EQ(runs.Run(sequences, run), expected);
      EXPECT_EQ(run.voids(), depth - 1);
      if (!cut.empty() || depth == 1) continue;
      const auto stage = MakeModelStage();
      ASSERT_TRUE(IsOk(stage->Load(Options(file.path()))));
      Replay replay;
      ASSERT_NO_FATAL_FAILURE(ReplayAhead(*stage, run.plans(), &replay));
      ExpectSame(replay.results, run.results());
      EXPECT_EQ(stage->voids(), run.voids());
    }
  }
}

// A request is given up while its rows are on their way; the next one takes its slot and its blocks
// in the very next plan.
TEST(Pipeline, ASlotsNextUserSeesNothingOfTheOneBefore) {
  const TempFile file(TinyModel(2, false, 4).Build());
  std::vector<Driven> sequences = Sequences(kTinyVocab);
  const std::vector<Answer> expected = Expected(file.path(), sequences);
  for (const std::vector<int64_t>& cut : std::vector<std::vector<int64_t>>{{}, {2}, {1, 2}}) {
    LocalPipeline pipeline(Options(file.path()), Split(4, cut));
    pipeline.BeginEpoch(1, 1);
    const auto plan_of = [&](uint64_t number, uint32_t generation, const Driven& user,
                             int64_t position) {
      StepPlan plan;
      plan.number = number;
      plan.epoch = 1;
      const auto prompt = static_cast<int64_t>(user.prompt.size());
      PlanRow row;
      row.generation = generation;
      row.sample = true;
      row.position = position;
      row.blocks = BlocksOfSlot(0, position + prompt, kTinyContext);
      if (position == 0) {
        plan.admissions = {{0, generation, user.sampling, prompt, {}}};
        if (user.sampling.needs_history()) plan.admissions[0].history = user.prompt;
        row.tokens = user.prompt;
      } else {
        row.tokens = {kNoToken};
        row.token_from = number - 1;
      }
      plan.rows = {row};
      return plan;
    };
    // Three plans of each user, all ahead.
    uint64_t number = 0;
    const size_t users[] = {5, 6, 7};
    for (size_t i = 0; i < std::size(users); ++i) {
      const Driven& user = sequences[users[i]];
      const auto generation = static_cast<uint32_t>(i + 1);
      const auto prompt = static_cast<int64_t>(user.prompt.size());
      for (int64_t step = 0; step < 3; ++step) {
        ++number;
        pipeline.Submit(plan_of(number, generation, user, step == 0 ? 0 : prompt + step - 1));
      }
    }
    for (const size_t i : users) {
      for (size_t step = 0; step < 3; ++step) {
        const auto result = pipeline.Next();
        ASSERT_TRUE(IsOk(result));
        ASSERT_EQ(result->samples.size(), 1u);
        EXPECT_EQ(result->samples[0].token, expected[i].tokens[step]);
        EXPECT_EQ(result->samples[0].logprob, expected[i].logprobs[step]);
      }
    }
    // A sample of another position, and one of another generation.
    const Driven& last = sequences[7];
    const auto prompt = static_cast<int64_t>(last.prompt.size());
    ++number;
    StepPlan stale = plan_of(number, 3, last, prompt + 2);
    stale.rows[0].token_from = number - 2;
    pipeline.Submit(stale);
    ++number;
    StepPlan other = plan_of(number, 4, last, prompt + 2);
    other.admissions = plan_of(number, 4, last, 0).admissions;
    other.rows[0].token_from = number - 2;  // sampled at that position, but for the user before
    pipeline.Submit(other);
    for (int i = 0; i < 2; ++i) {
      const auto result = pipeline.Next();
      ASSERT_TRUE(IsOk(result));
      ASSERT_EQ(result->samples.size(), 1u);
      EXPECT_EQ(result->samples[0].token, kVoidToken);
    }
    EXPECT_EQ(pipeline.stage(0).beat().voids, 2);
  }
}

}  // namespace
}  // namespace penstock
