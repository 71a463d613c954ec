// Loads of many requests, without a model: how rarely the scheduler preempts where KV memory is
// scarce, and how fairly it serves tenants.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "core/sched/scheduler.h"
#include "tests/support/pipeline_costs.h"

namespace penstock {
namespace {

constexpr int32_t kStop = 2;
constexpr int32_t kGoOn = 3;

struct Request {
  int64_t prompt = 0;
  int64_t answer = 0;  // where it stops by itself
  int64_t max_tokens = 0;
  int32_t tenant = 0;

  int64_t blocks() const { return BlocksFor(prompt + answer - 1); }
};

class Server {
 public:
  explicit Server(const SchedulerOptions& options)
      : options_(options), scheduler_(options, EvenCost(options.num_stages)) {}

  void Add(const Request& request) {
    SequenceRequest wanted;
    // No two prompts are alike: prefixes do not help.
    for (int64_t i = 0; i < request.prompt; ++i) {
      wanted.prompt.push_back(static_cast<int32_t>(requests_.size() + 10));
    }
    wanted.max_tokens = request.max_tokens;
    wanted.sampling.stop_ids = {kStop};
    wanted.sampling.seed = requests_.size();  // tells in an Admission whose it is
    wanted.tenant = request.tenant;
    scheduler_.Add(static_cast<SequenceId>(requests_.size()), std::move(wanted));
    requests_.push_back(request);
  }

  // False: nothing to do.
  bool Step() {
    while (std::optional<StepPlan> plan = scheduler_.Schedule()) plans_.push_back(*std::move(plan));
    for (SequenceId id : scheduler_.TakePreempted()) ++preempted_[id];
    if (plans_.empty()) return false;
    const StepPlan plan = std::move(plans_.front());
    plans_.pop_front();
    for (const Admission& admission : plan.admissions) {
      users_[admission.slot] = {admission.sampling.seed, false};
    }
    StepResult result;
    result.number = plan.number;
    for (const PlanRow& row : plan.rows) {
      if (!row.sample) continue;
      auto& [request, ended] = users_[row.slot];
      SampledToken& sample = result.samples.emplace_back();
      sample.slot = row.slot;
      sample.generation = row.generation;
      sample.position = row.position + static_cast<int64_t>(row.tokens.size());
      const bool stops =
          sample.position == requests_[request].prompt + requests_[request].answer - 1;
      sample.token = ended ? kVoidToken : stops ? kStop : kGoOn;
      ended = ended || stops;
    }
    for (const SequenceProgress& progress : scheduler_.Commit(std::move(result))) {
      const Request& request = requests_[progress.id];
      auto& generated = generated_[progress.id];
      served_[request.tenant] += generated == 0 ? request.prompt : 0;
      served_[request.tenant] += 2;
      ++generated;
      if (progress.end != SequenceEnd::kNone) {
        ++finished_;
        EXPECT_EQ(generated, std::min(request.answer, request.max_tokens));
      }
    }
    used_ += scheduler_.blocks().num_owned();
    ++steps_;
    return true;
  }

  Scheduler& scheduler() { return scheduler_; }
  size_t finished() const { return finished_; }
  int64_t served(int32_t tenant) { return served_[tenant]; }  // prompt + 2 * answer
  const std::map<SequenceId, int>& preempted() const { return preempted_; }
  int64_t steps() const { return steps_; }
  double used() const {  // share of the blocks
    return static_cast<double>(used_) / static_cast<double>(steps_ * options_.num_blocks);
  }

 private:
  const SchedulerOptions options_;
  Scheduler scheduler_;
  std::vector<Request> requests_;
  std::deque<StepPlan> plans_;
  std::map<int32_t, std::pair<size_t, bool>> users_;  // by slot: request, whether it has ended
  std::map<SequenceId, int> preempted_;
  std::map<SequenceId, int64_t> generated_;
  std::map<int32_t, int64_t> served_;
  size_t finished_ = 0;
  int64_t used_ = 0;
  int64_t steps_ = 0;
};

// All at once, and half of the blocks that they need.
void ServeInHalfOfTheNeed(const char* name, const std::vector<Request>& requests) {
  SCOPED_TRACE(name);
  SchedulerOptions options;
  int64_t most = 0;
  for (const Request& request : requests) {
    options.num_blocks += request.blocks();
    most = std::max(most, BlocksFor(request.prompt + request.max_tokens - 1));
  }
  options.num_blocks = std::max(options.num_blocks / 2, most);
  options.max_sequences = static_cast<int64_t>(requests.size());
  options.max_step_tokens = std::max<int64_t>(1024, options.max_sequences);
  Server server(options);
  for (const Request& request : requests) server.Add(request);
  while (server.Step()) {
  }
  EXPECT_EQ(server.finished(), requests.size());
  const double share =
      static_cast<double>(server.preempted().size()) / static_cast<double>(requests.size());
  int worst = 0;
  for (const auto& [id, times] : server.preempted()) worst = std::max(worst, times);
  std::printf(
      "%-28s %4zu requests, %5ld blocks: %4.1f %% preempted, at most %d times; %ld steps, "
      "%.0f %% of the blocks in use\n",
      name, requests.size(), options.num_blocks, 100 * share, worst, server.steps(),
      100 * server.used());
  EXPECT_LE(share, 0.07);
  EXPECT_LE(worst, 3);
}

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }

 private:
  std::mt19937_64 random_;
};

TEST(SchedulerLoad, PreemptsSeldomInHalfOfTheNeed) {
  for (int64_t count : {64, 256, 1000}) {
    Draw draw(static_cast<uint64_t>(count));
    std::vector<Request> full, early, mixed, steady;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t prompt = draw.Between(16, 512);
      const int64_t most = draw.Between(64, 1024);
      full.push_back({prompt, most, most});
      early.push_back({prompt, draw.Between(1, most / 2), most});
      mixed.push_back({prompt, draw.Between(0, 9) < 7 ? draw.Between(1, 32) : most, most});
      steady.push_back({prompt, draw.Between(100, 300), 1024});
    }
    ServeInHalfOfTheNeed("to the end", full);
    ServeInHalfOfTheNeed("early ends", early);
    ServeInHalfOfTheNeed("short ones and full ones", mixed);
    ServeInHalfOfTheNeed("max_tokens for all", steady);
  }
}

// What was learnt turns out wrong: short answers only, then long ones only.
TEST(SchedulerLoad, PreemptsSeldomWhenAnswersGrow) {
  for (uint64_t seed : {1, 2, 3}) {
    Draw draw(seed);
    std::vector<Request> requests;
    for (int i = 0; i < 800; ++i) {
      const int64_t answer = i < 400 ? draw.Between(1, 50) : draw.Between(300, 512);
      requests.push_back({draw.Between(16, 256), answer, 512});
    }
    ServeInHalfOfTheNeed("short, then long", requests);
  }
}

// Tenant 0 asks for ten times as much as tenant 1, who asks for more than half of what there is.
TEST(SchedulerLoad, ServesTenantsAlikeWhateverTheyAskFor) {
  for (uint64_t seed : {1, 2, 3}) {
    Draw draw(seed);
    SchedulerOptions options;
    options.num_blocks = 400;
    options.max_sequences = 16;
    options.max_step_tokens = 64;
    Server server(options);
    // One reads long prompts, the other writes long answers.
    const auto ask = [&](int32_t tenant) {
      const int64_t most = tenant == 0 ? 50 : 200;
      server.Add({draw.Between(20, tenant == 0 ? 400 : 50), draw.Between(20, most), most, tenant});
    };
    for (int step = 0; step < 20'000; ++step) {
      if (step % 7 == 0) {
        ask(1);
        for (int i = 0; i < 10; ++i) ask(0);
      }
      ASSERT_TRUE(server.Step());
    }
    ASSERT_GT(server.scheduler().num_waiting(), 0);
    const auto greedy = static_cast<double>(server.served(0));
    const auto modest = static_cast<double>(server.served(1));
    std::printf("tokens served: %.0f to who asks ten times as much, %.0f to the other\n", greedy,
                modest);
    EXPECT_NEAR(greedy / modest, 1, 0.1);
  }
}

// A tenant that was away for long does not shut out the others when it is back.
TEST(SchedulerLoad, NobodySavesUpForARush) {
  SchedulerOptions options;
  options.num_blocks = 100;
  options.max_sequences = 4;
  options.max_step_tokens = 64;
  Server server(options);
  for (int i = 0; i < 300; ++i) server.Add({30, 30, 30, 0});
  for (int step = 0; step < 1000; ++step) ASSERT_TRUE(server.Step());
  const int64_t before = server.served(0);
  for (int i = 0; i < 300; ++i) server.Add({30, 30, 30, 1});
  for (int step = 0; step < 600; ++step) ASSERT_TRUE(server.Step());
  const auto regular = static_cast<double>(server.served(0) - before);
  const auto returned = static_cast<double>(server.served(1));
  EXPECT_NEAR(regular / returned, 1, 0.1);
}

}  // namespace
}  // namespace penstock
