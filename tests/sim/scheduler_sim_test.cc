// Thousands of random steps through the scheduler: adds, aborts, stop ids, rows that fail, prompts
// whose log-probabilities are told, histories for penalties, pools that are too small, up to three
// plans in flight. After every commit the books must balance, and every sequence must get the
// tokens that it gets alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>

#include "core/sched/scheduler.h"
#include "tests/support/fake_model.h"
#include "tests/support/pipeline_costs.h"

namespace penstock {
namespace {

struct Expected {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int64_t max_tokens = 0;
  std::vector<int32_t> alone;
  std::vector<int32_t> got;
  std::vector<int32_t> told;  // tokens of the prompt, by their log-probabilities
};

class Simulation {
 public:
  explicit Simulation(uint32_t seed)
      : random_(seed),
        model_options_(Draw()),
        model_(model_options_),
        scheduler_(Options(), EvenCost(1)) {}

  void Run(int steps) {
    for (int step = 0; step < steps; ++step) {
      if (random_() % 3 == 0) Add();
      if (random_() % 8 == 0) Abort();
      if (random_() % 50 == 0) BeginEpoch();
      Fill();
      ASSERT_NO_FATAL_FAILURE(CommitOldest());
    }
  }

  // Lets everything that lives come to its end.
  void Finish() {
    while (scheduler_.HasWork()) {
      Fill();
      ASSERT_FALSE(plans_.empty());
      ASSERT_NO_FATAL_FAILURE(CommitOldest());
    }
    EXPECT_TRUE(live_.empty());
    EXPECT_EQ(scheduler_.blocks().num_free(), model_options_.num_blocks);
  }

  // A stage is lost: what is in flight is never answered.
  void BeginEpoch() {
    scheduler_.BeginEpoch();
    scheduler_.CheckIntegrity();
    model_.BeginEpoch(++epoch_, plans_.empty() ? next_plan_ : plans_.back().number + 1);
    plans_.clear();
  }

  int64_t ended() const { return ended_; }
  int64_t ended(SequenceEnd end) const { return ends_.count(end) != 0 ? ends_.at(end) : 0; }

 private:
  FakeModelOptions Draw() {
    FakeModelOptions options;
    options.num_blocks = 4 + random_() % 12;
    options.max_sequences = 1 + random_() % 8;
    options.max_step_tokens = options.max_sequences + random_() % 80;
    options.bad_token = 33;
    options.plans_ahead = 1 + random_() % 4;
    return options;
  }
  SchedulerOptions Options() const {
    SchedulerOptions options;
    options.num_blocks = model_options_.num_blocks;
    options.max_sequences = model_options_.max_sequences;
    options.max_step_tokens = model_options_.max_step_tokens;
    options.plans_ahead = model_options_.plans_ahead;
    return options;
  }

  void Add() {
    std::vector<int32_t> prompt(1 + random_() % 150);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random_() % 50);
    const int64_t max_tokens = 1 + random_() % 100;
    SamplingParams sampling;
    sampling.seed = random_();
    if (random_() % 4 != 0) sampling.stop_ids = {7, 21};
    if (random_() % 3 == 0) sampling.prompt_logprobs = static_cast<int32_t>(random_() % 4);
    if (random_() % 3 == 0) sampling.frequency_penalty = 1.0f;
    Expected& expected = live_[++last_id_];
    expected.prompt = prompt;
    expected.sampling = sampling;
    expected.max_tokens = max_tokens;
    expected.alone = model_.Alone(prompt, max_tokens, sampling.seed,
                                  {sampling.stop_ids.begin(), sampling.stop_ids.end()});
    scheduler_.Add(last_id_, {std::move(prompt), max_tokens, sampling});
  }

  void Abort() {
    if (live_.empty()) return;
    auto victim = live_.begin();
    std::advance(victim, random_() % live_.size());
    scheduler_.Abort(victim->first);
    live_.erase(victim);
    scheduler_.CheckIntegrity();
  }

  void Fill() {
    while (std::optional<StepPlan> plan = scheduler_.Schedule()) {
      plan->epoch = epoch_;
      scheduler_.CheckIntegrity();
      plans_.push_back(std::move(*plan));
    }
  }

  void CommitOldest() {
    if (plans_.empty()) return;
    const absl::StatusOr<StepResult> result = model_.Execute(plans_.front());
    ASSERT_TRUE(result.ok()) << result.status();
    next_plan_ = plans_.front().number + 1;
    plans_.pop_front();
    for (const SequenceProgress& progress : scheduler_.Commit(*result)) {
      const auto found = live_.find(progress.id);
      ASSERT_NE(found, live_.end()) << "progress of a sequence that was aborted or has ended";
      Expected& expected = found->second;
      for (const PromptLogprob& logprob : progress.prompt_logprobs) {
        expected.told.push_back(logprob.token.token);
        EXPECT_EQ(logprob.position, static_cast<int64_t>(expected.told.size()));
        EXPECT_EQ(static_cast<int32_t>(logprob.top.size()), expected.sampling.prompt_logprobs);
      }
      if (progress.token) expected.got.push_back(progress.token->token);
      if (progress.end == SequenceEnd::kNone) continue;
      ++ended_;
      ++ends_[progress.end];
      EXPECT_EQ(expected.got, expected.alone);
      EXPECT_EQ(progress.end, EndOf(expected));
      if (expected.sampling.prompt_logprobs < 0) {
        EXPECT_TRUE(expected.told.empty());
      } else if (!expected.got.empty()) {
        EXPECT_TRUE(std::equal(expected.told.begin(), expected.told.end(),
                               expected.prompt.begin() + 1, expected.prompt.end()));
      }
      live_.erase(found);
    }
    scheduler_.CheckIntegrity();
  }

  SequenceEnd EndOf(const Expected& expected) const {
    std::vector<int32_t> history = expected.prompt;
    history.insert(history.end(), expected.alone.begin(), expected.alone.end());
    const std::vector<int32_t>& stops = expected.sampling.stop_ids;
    if (!expected.alone.empty() &&
        std::find(stops.begin(), stops.end(), expected.alone.back()) != stops.end()) {
      return SequenceEnd::kStop;
    }
    const auto length = static_cast<int64_t>(expected.alone.size());
    return length == expected.max_tokens ? SequenceEnd::kLength : SequenceEnd::kFailed;
  }

  std::mt19937 random_;
  const FakeModelOptions model_options_;
  FakeModel model_;
  Scheduler scheduler_;
  std::map<SequenceId, Expected> live_;
  std::deque<StepPlan> plans_;  // in flight, oldest first
  uint32_t epoch_ = 0;
  uint64_t next_plan_ = 1;
  SequenceId last_id_ = 0;
  int64_t ended_ = 0;
  std::map<SequenceEnd, int64_t> ends_;
};

TEST(SchedulerSim, EverySequenceGetsWhatItGetsAlone) {
  int64_t ended = 0;
  std::map<SequenceEnd, int64_t> ends;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(seed);
    ASSERT_NO_FATAL_FAILURE(simulation.Run(400));
    ASSERT_NO_FATAL_FAILURE(simulation.Finish());
    ended += simulation.ended();
    for (SequenceEnd end : {SequenceEnd::kStop, SequenceEnd::kLength, SequenceEnd::kFailed}) {
      ends[end] += simulation.ended(end);
    }
  }
  for (const auto& [end, count] : ends) EXPECT_GT(count, 100) << static_cast<int>(end);
  EXPECT_GT(ended, 1000);
}

// The fake would see it if the scheduler gave one block to two sequences.
TEST(FakeModel, RefusesAPlanWithASharedBlock) {
  FakeModel model(FakeModelOptions{});
  StepPlan plan;
  plan.number = 1;
  for (int32_t slot : {0, 1}) {
    Admission& admission = plan.admissions.emplace_back();
    admission.slot = slot;
    admission.generation = 1;
    PlanRow& row = plan.rows.emplace_back();
    row.slot = slot;
    row.generation = 1;
    row.tokens = {5};
    row.blocks = {3};
  }
  EXPECT_EQ(model.Execute(plan).status().message(), "plan 1: a block has two owners");
}

// ... and if a block were given away while its sequence still runs.
TEST(FakeModel, RefusesABlockThatAnotherSequenceOverwrote) {
  FakeModel model(FakeModelOptions{});
  for (uint64_t number : {1, 2, 3}) {
    StepPlan plan;
    plan.number = number;
    PlanRow& row = plan.rows.emplace_back();
    row.slot = number == 2 ? 1 : 0;
    row.generation = 1;
    row.position = number == 3 ? 1 : 0;
    row.tokens = {number == 2 ? 6 : 5};
    row.blocks = {3};
    if (number != 3) {
      Admission& admission = plan.admissions.emplace_back();
      admission.slot = row.slot;
      admission.generation = 1;
    }
    EXPECT_EQ(model.Execute(plan).ok(), number != 3);
  }
}

}  // namespace
}  // namespace penstock
