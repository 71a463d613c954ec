// Random steps through the scheduler over a model of a pipeline: adds, aborts, priorities, tenants,
// stop ids, rows that fail, prompts whose log-probabilities are told, histories for penalties,
// prompts that others begin with too, pools that are too small, plans in flight over one or more
// stages, epochs that end at any moment, suspects. After every step the books must balance, and
// every sequence must get the tokens that it gets alone.
//
// PENSTOCK_SIM_SEEDS=N runs N seeds (scripts/simulate runs 10^6); PENSTOCK_SIM_SEED=S that one
// alone, which is what a failure prints; both: N seeds from S on.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>
#include <random>
#include <string>

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
  std::vector<int32_t> told;   // tokens of the prompt, by their log-probabilities
  uint64_t suspect_since = 0;  // the plan that came next then; 0: no suspect
  int preempted = 0;
};

// What all runs together have come across.
struct Tally {
  std::map<SequenceEnd, int64_t> ends;
  int64_t preemptions = 0;
  int64_t hit_tokens = 0;
  int64_t voids = 0;
  int64_t epochs = 0;
  int64_t alone = 0;  // plans of a suspect
};

// Sequences that live at once, bounded as a server's queue is: with more, nearly all of a run would
// be the quiet working off of what waits, in which nothing happens to the scheduler. Every eighth
// seed has such a backlog all the same.
constexpr size_t kMostLive = 32;
constexpr size_t kMostLiveInEighth = 110;

class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : random_(seed),
        most_live_(seed % 8 == 0 ? kMostLiveInEighth : kMostLive),
        model_options_(DrawModel()),
        model_(model_options_),
        options_(DrawScheduler()),
        scheduler_(options_, EvenCost(options_.num_stages, Pick({1, 100'000, 10'000'000}))) {
    for (std::vector<int32_t>& prompt : openings_) prompt = Tokens(64 + random_() % 150);
    rush_ = 1 + random_() % 5;
    has_suspects_ = random_() % 3 == 0;
  }

  void Run(int steps) {
    for (int step = 0; step < steps; ++step) {
      if (random_() % rush_ == 0 && live_.size() < most_live_) Add();
      if (random_() % 16 == 0) Abort();
      if (random_() % 60 == 0) BeginEpoch();
      if (has_suspects_ && random_() % 30 == 0) ToggleSuspect();
      if (random_() % 80 == 0) talkative_ = !talkative_;
      Fill(random_() % 4 == 0 ? 1 : options_.plans_ahead);
      ASSERT_NO_FATAL_FAILURE(CommitOldest());
    }
  }

  // Lets everything that lives come to its end.
  void Finish(Tally& tally) {
    while (scheduler_.HasWork()) {
      Fill(options_.plans_ahead);
      ASSERT_FALSE(plans_.empty()) << "nobody can go on";
      ASSERT_NO_FATAL_FAILURE(CommitOldest());
    }
    EXPECT_TRUE(live_.empty());
    EXPECT_EQ(scheduler_.blocks().num_owned(), 0);
    EXPECT_EQ(scheduler_.num_running() + scheduler_.num_waiting(), 0);
    EXPECT_EQ(scheduler_.waiting_tokens(), 0);
    while (!plans_.empty()) ASSERT_NO_FATAL_FAILURE(CommitOldest());
    for (const auto& [end, count] : tally_.ends) tally.ends[end] += count;
    tally.preemptions += scheduler_.preemptions();
    tally.hit_tokens += scheduler_.prefix_hit_tokens();
    tally.voids += model_.voids();
    tally.epochs += epoch_;
    tally.alone += tally_.alone;
  }

 private:
  struct Flight {
    StepPlan plan;
    bool others = false;  // were in flight when it left
  };

  int64_t Pick(std::initializer_list<int64_t> values) {
    return *(values.begin() + random_() % values.size());
  }
  FakeModelOptions DrawModel() {
    FakeModelOptions options;
    options.num_blocks = 4 + random_() % 14;
    options.max_sequences = 1 + random_() % 8;
    options.max_step_tokens = options.max_sequences + random_() % 80;
    options.bad_token = random_() % 2 == 0 ? 33 : -1;
    options.plans_ahead = 1 + random_() % 6;
    return options;
  }
  SchedulerOptions DrawScheduler() {
    SchedulerOptions options;
    options.num_blocks = model_options_.num_blocks;
    options.max_sequences = model_options_.max_sequences;
    options.max_step_tokens = model_options_.max_step_tokens;
    options.plans_ahead = model_options_.plans_ahead;
    options.num_stages = 1 + random_() % 3;
    options.prefix_cache = random_() % 4 != 0;
    options.cache_key[0] = random_();
    return options;
  }
  std::vector<int32_t> Tokens(size_t count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % 50);
    return tokens;
  }

  void Add() {
    Expected expected;
    if (random_() % 2 == 0) expected.prompt = openings_[random_() % 2];
    for (int32_t token : Tokens(1 + random_() % 90)) expected.prompt.push_back(token);
    const auto room = static_cast<size_t>(options_.num_blocks * kBlockSize / 2);
    expected.prompt.resize(std::min(expected.prompt.size(), room));
    expected.max_tokens = 1 + random_() % std::min<size_t>(room, 250);
    SamplingParams& sampling = expected.sampling;
    sampling.seed = random_() % 4;
    // Answers that end early teach the scheduler to expect no more, and then long ones come.
    if (!talkative_) sampling.stop_ids = {4, 7, 11, 21, 34, 42};
    if (random_() % 4 == 0) sampling.prompt_logprobs = static_cast<int32_t>(random_() % 4);
    if (random_() % 3 == 0) sampling.frequency_penalty = 1.0f;
    expected.alone = model_.Alone(expected.prompt, expected.max_tokens, sampling.seed,
                                  {sampling.stop_ids.begin(), sampling.stop_ids.end()});
    scheduler_.Add(++last_id_,
                   {expected.prompt, expected.max_tokens, sampling,
                    static_cast<int32_t>(random_() % 3), static_cast<int32_t>(random_() % 3)});
    live_[last_id_] = std::move(expected);
  }

  std::map<SequenceId, Expected>::iterator Any() {
    auto any = live_.begin();
    std::advance(any, random_() % live_.size());
    return any;
  }
  void Abort() {
    if (live_.empty()) return;
    const auto victim = Any();
    scheduler_.Abort(victim->first);
    live_.erase(victim);
    scheduler_.CheckIntegrity();
  }
  void ToggleSuspect() {
    if (live_.empty()) return;
    const auto any = Any();
    uint64_t& since = any->second.suspect_since;
    since = since == 0 ? scheduler_.next_plan() : 0;
    scheduler_.SetSuspect(any->first, since != 0);
    scheduler_.CheckIntegrity();
  }

  // A stage is lost: what is in flight is never answered.
  void BeginEpoch() {
    for (SequenceId id : scheduler_.BeginEpoch()) {
      EXPECT_TRUE(live_.count(id) != 0 && !plans_.empty());
    }
    scheduler_.CheckIntegrity();
    EXPECT_EQ(scheduler_.blocks().num_free(), options_.num_blocks);
    model_.BeginEpoch(++epoch_, scheduler_.next_plan());
    plans_.clear();
  }
  void Fill(int64_t count) {
    for (; count > 0; --count) {
      std::optional<StepPlan> plan = scheduler_.Schedule();
      scheduler_.CheckIntegrity();
      for (SequenceId id : scheduler_.TakePreempted()) {
        ASSERT_EQ(live_.count(id), 1u);
        EXPECT_LE(++live_[id].preempted, 3);
      }
      if (!plan) return;
      EXPECT_GT(scheduler_.PredictNs(plan->number), 0);
      plan->epoch = epoch_;
      plans_.push_back({std::move(*plan), !plans_.empty()});
      ASSERT_LE(static_cast<int64_t>(plans_.size()), options_.plans_ahead);
    }
  }

  void CommitOldest() {
    if (plans_.empty()) return;
    const Flight flight = std::move(plans_.front());
    plans_.pop_front();
    const absl::StatusOr<StepResult> result = model_.Execute(flight.plan);
    ASSERT_TRUE(result.ok()) << result.status();
    if (random_() % 8 == 0) {
      const auto stage = static_cast<int64_t>(random_() % options_.num_stages);
      scheduler_.Observe(stage, flight.plan.number, 1 + random_() % 1'000'000);
    }
    for (const SequenceProgress& progress : scheduler_.Commit(*result)) {
      const auto found = live_.find(progress.id);
      ASSERT_NE(found, live_.end()) << "progress of a sequence that was aborted or has ended";
      const uint64_t since = found->second.suspect_since;
      if (since != 0 && flight.plan.number >= since) {
        ++tally_.alone;
        EXPECT_TRUE(flight.plan.rows.size() == 1 && !flight.others && plans_.empty());
      }
      if (Take(progress, found->second)) live_.erase(found);
    }
    scheduler_.CheckIntegrity();
  }

  // True where that is the sequence's end.
  bool Take(const SequenceProgress& progress, Expected& expected) {
    for (const PromptLogprob& logprob : progress.prompt_logprobs) {
      expected.told.push_back(logprob.token.token);
      EXPECT_EQ(logprob.position, static_cast<int64_t>(expected.told.size()));
      EXPECT_EQ(static_cast<int32_t>(logprob.top.size()), expected.sampling.prompt_logprobs);
    }
    if (progress.token) {
      EXPECT_EQ(progress.token->position,
                static_cast<int64_t>(expected.prompt.size() + expected.got.size()));
      expected.got.push_back(progress.token->token);
    }
    if (progress.end == SequenceEnd::kNone) return false;
    ++tally_.ends[progress.end];
    EXPECT_EQ(expected.got, expected.alone);
    EXPECT_EQ(progress.end, EndOf(expected));
    if (expected.sampling.prompt_logprobs < 0) {
      EXPECT_TRUE(expected.told.empty());
    } else if (!expected.got.empty()) {
      EXPECT_TRUE(std::equal(expected.told.begin(), expected.told.end(),
                             expected.prompt.begin() + 1, expected.prompt.end()));
    }
    return true;
  }

  static SequenceEnd EndOf(const Expected& expected) {
    const std::vector<int32_t>& stops = expected.sampling.stop_ids;
    if (!expected.alone.empty() &&
        std::find(stops.begin(), stops.end(), expected.alone.back()) != stops.end()) {
      return SequenceEnd::kStop;
    }
    const auto length = static_cast<int64_t>(expected.alone.size());
    return length == expected.max_tokens ? SequenceEnd::kLength : SequenceEnd::kFailed;
  }

  std::mt19937_64 random_;
  const size_t most_live_;
  const FakeModelOptions model_options_;
  FakeModel model_;
  const SchedulerOptions options_;
  Scheduler scheduler_;
  uint64_t rush_ = 1;  // one arrival in so many steps
  bool has_suspects_ = false;
  bool talkative_ = false;
  std::vector<int32_t> openings_[2];
  std::map<SequenceId, Expected> live_;
  std::deque<Flight> plans_;  // oldest first
  uint32_t epoch_ = 0;
  SequenceId last_id_ = 0;
  Tally tally_;
};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(SchedulerSim, EverySequenceGetsWhatItGetsAlone) {
  const bool one = std::getenv("PENSTOCK_SIM_SEED") != nullptr;
  const uint64_t first = FromEnvironment("PENSTOCK_SIM_SEED", 0);
  const uint64_t count = FromEnvironment("PENSTOCK_SIM_SEEDS", one ? 1 : 200);
  Tally tally;
  for (uint64_t seed = first; seed < first + count && !HasFailure(); ++seed) {
    SCOPED_TRACE("run it alone with PENSTOCK_SIM_SEED=" + std::to_string(seed));
    Simulation simulation(seed);
    ASSERT_NO_FATAL_FAILURE(simulation.Run(400));
    ASSERT_NO_FATAL_FAILURE(simulation.Finish(tally));
  }
  std::printf(
      "%lu seeds: %ld stops, %ld lengths, %ld failures, %ld preemptions, %ld epochs, "
      "%ld tokens cached, %ld voids, %ld plans alone\n",
      count, tally.ends[SequenceEnd::kStop], tally.ends[SequenceEnd::kLength],
      tally.ends[SequenceEnd::kFailed], tally.preemptions, tally.epochs, tally.hit_tokens,
      tally.voids, tally.alone);
  if (count < 100) return;
  // The runs have come across what they are for.
  for (SequenceEnd end : {SequenceEnd::kStop, SequenceEnd::kLength, SequenceEnd::kFailed}) {
    EXPECT_GT(tally.ends[end], 100) << static_cast<int>(end);
  }
  for (int64_t seen : {tally.epochs, tally.hit_tokens, tally.voids, tally.alone}) {
    EXPECT_GT(seen, 100);
  }
  EXPECT_GT(tally.preemptions, 30);  // it is made to be rare
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
