// The engine, its coordinator and the stages in one thread and in virtual time, all of it decided
// by one seed: requests come, are cancelled and run out of time, pools are too small, rows fail;
// stages work one at a time in any order, die, hang, get stuck, refuse epochs, fail plans, time out
// and die of a poisonous request. After every turn the books must balance; every stream is at all
// times a beginning of what its request gets alone, and ends exactly once; nothing hangs, and in
// the end every block is free.
//
// PENSTOCK_SIM_SEEDS=N runs N seeds (scripts/simulate runs 10^6), PENSTOCK_SIM_SEED=S that one
// alone, which is what a failure prints; both: N seeds from S on.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>

#include "core/base/log.h"
#include "tests/support/virtual_engine.h"

namespace penstock {
namespace {

constexpr int32_t kPoison = 48;

struct Client {
  GenerationRequest request;
  std::vector<int32_t> alone;
  std::shared_ptr<RecordingSink> sink;
  bool aborted = false;
  bool ended = false;
};

struct Outcomes {
  int64_t whole = 0;
  int64_t failed = 0;  // no numbers
  int64_t cancelled = 0;
  int64_t late = 0;      // deadlines, in a recovery or not
  int64_t given_up = 0;  // suspects that were not tried any more
  int64_t innocent = 0;  // of these: stages happened to die with them alone in flight
  int64_t unavailable = 0;
  int64_t recoveries = 0;
  int64_t preemptions = 0;
};

class Simulation : public EngineObserver {
 public:
  explicit Simulation(uint64_t seed) : random_(seed) {
    model_.num_blocks = 4 + Draw(12);
    model_.max_sequences = 1 + Draw(6);
    model_.max_step_tokens = model_.max_sequences + Draw(80);
    model_.bad_token = 33;
    num_stages_ = static_cast<int32_t>(1 + Draw(4));
    options_.plans_ahead = 1 + Draw(2 * num_stages_);
    options_.prefix_cache = Draw(4) != 0;
    options_.cache_key[0] = random_();
    pipeline_.load_limit = absl::Seconds(20);
    pipeline_.max_deaths = Draw(8) == 0 ? Draw(4) : 100'000;
    poison_ = Draw(4) == 0;
    faults_ = Draw(4) != 0;
    if (!faults_) pipeline_.min_plan_limit = pipeline_.hang_limit = absl::Hours(1);
    engine_ = std::make_unique<VirtualEngine>(model_, num_stages_, options_, pipeline_, this);
    if (poison_) engine_->stages().SetPoison(kPoison, static_cast<int32_t>(Draw(num_stages_)));
  }

  void Run(int steps) {
    for (int step = 0; step < steps && !testing::Test::HasFailure(); ++step) {
      switch (Draw(faults_ ? 24 : 22)) {
        case 0:
        case 1:
          Submit();
          break;
        case 2:
          Abort();
          break;
        case 3:
          engine_->MoveClock(absl::Milliseconds(Draw(200)));
          break;
        case 4:
          engine_->stages().Beat(Stage());
          break;
        case 5:
          engine_->Pass(absl::Milliseconds(100 * Draw(10)), /*work=*/Draw(2) == 0);
          break;
        case 6:
        case 7:
        case 8:
        case 9:
        case 10:
          engine_->Turn();
          break;
        case 22:
          if (Draw(3) == 0) Break();
          break;
        case 23:
          if (Draw(8) == 0) engine_->Pass(absl::Seconds(5), /*work=*/false);
          break;
        default:
          for (int64_t i = Draw(12); i >= 0; --i) engine_->stages().Step(Stage());
      }
      Check();
    }
  }

  // No faults any more but the poison: all comes to its end, soon.
  void Finish(Outcomes& outcomes) {
    engine_->Turn();
    const Engine& engine = engine_->engine();
    for (int second = 0; second < 240; ++second) {
      const bool idle = engine.empty() && engine_->coordinator().num_in_flight() == 0;
      if (idle && engine.ready() == engine.alive()) break;
      engine_->Pass(absl::Seconds(1));
      Check();
    }
    EXPECT_TRUE(engine_->AllIsFree()) << Describe();
    EXPECT_EQ(engine_->coordinator().num_in_flight(), 0);
    EXPECT_EQ(engine_->engine().ready(), engine_->engine().alive());
    EXPECT_TRUE(engine_->engine().alive() || pipeline_.max_deaths < 1000);
    EXPECT_EQ(told_, static_cast<int64_t>(clients_.size()));
    for (const Client& client : clients_) Count(client, outcomes);
    outcomes.recoveries += engine_->engine().stats().recoveries;
    outcomes.preemptions += engine_->engine().scheduler().preemptions();
  }

 private:
  std::string Describe() const {
    const PipelineCoordinator& pipeline = engine_->coordinator();
    const EngineStats stats = engine_->engine().stats();
    return absl::StrCat(num_stages_, " stages, ", options_.plans_ahead, " plans ahead, state ",
                        static_cast<int>(pipeline.state()), ", epoch ", pipeline.epoch(), ", ",
                        pipeline.num_in_flight(), " plans in flight, ", stats.running, " running, ",
                        stats.waiting, " waiting, ", stats.blocks_free, " of ", stats.blocks_total,
                        " blocks free; ", pipeline.status().message());
  }

  int64_t Draw(int64_t below) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(below));
  }
  int32_t Stage() { return static_cast<int32_t>(Draw(num_stages_)); }

  void OnRequest(const RequestRecord&) override { ++told_; }

  void Submit() {
    Client& client = clients_.emplace_back();
    GenerationRequest& request = client.request;
    const int64_t room = model_.num_blocks * kBlockSize;
    const int64_t length = 1 + Draw(std::min<int64_t>(150, room - 1));
    const auto kind = static_cast<int32_t>(Draw(3));  // prompts that begin alike
    for (int64_t i = 0; i < length; ++i) {
      request.prompt.push_back(i < 130 ? static_cast<int32_t>((kind * 7 + i) % 40)
                                       : static_cast<int32_t>(Draw(40)));
    }
    if (poison_ && Draw(12) == 0) request.prompt[static_cast<size_t>(Draw(length))] = kPoison;
    request.max_tokens = 1 + Draw(std::min<int64_t>(100, room - length));
    request.sampling.seed = random_();
    if (Draw(4) != 0) request.sampling.stop_ids = {7, 21};
    if (Draw(4) == 0) request.sampling.prompt_logprobs = static_cast<int32_t>(Draw(3));
    if (Draw(4) == 0) request.sampling.logprobs = static_cast<int32_t>(Draw(3));
    if (Draw(4) == 0) request.sampling.frequency_penalty = 1.0f;
    request.priority = static_cast<int32_t>(Draw(2));
    if (Draw(2) == 0) request.tenant = absl::StrCat("tenant ", Draw(3));
    if (Draw(8) == 0) request.deadline = engine_->now() + absl::Milliseconds(Draw(20'000));
    client.alone = engine_->Alone(request);
    client.sink = engine_->Submit(request);
  }

  void Abort() {
    if (clients_.empty()) return;
    const int64_t which = Draw(static_cast<int64_t>(clients_.size()));
    clients_[static_cast<size_t>(which)].aborted = true;
    engine_->Abort(which + 1);
  }

  void Break() {
    static constexpr absl::StatusCode kCodes[] = {
        absl::StatusCode::kUnavailable, absl::StatusCode::kDeadlineExceeded,
        absl::StatusCode::kInternal, absl::StatusCode::kFailedPrecondition};
    FakePipeline& stages = engine_->stages();
    switch (Draw(6)) {
      case 0:
      case 1:
        stages.Die(Stage());
        break;
      case 2:
        stages.Hang(Stage());
        break;
      case 3:
        stages.Stick(Stage());
        break;
      case 4:
        stages.RefuseEpochs(Stage(), static_cast<int>(Draw(3)));
        break;
      default:
        stages.FailEpoch(Stage(), absl::Status(kCodes[Draw(4)], "a fault"),
                         static_cast<uint64_t>(Draw(2)) * 1000);
    }
  }

  void Check() {
    EXPECT_TRUE(engine_->stages().broken_rule().ok()) << engine_->stages().broken_rule();
    for (size_t i = 0; i < clients_.size(); ++i) {
      Client& client = clients_[i];
      if (client.ended) continue;
      const RecordingSink::Record record = client.sink->record();
      EXPECT_EQ(record.breaches, 0);
      const bool begins =
          record.tokens.size() <= client.alone.size() &&
          std::equal(record.tokens.begin(), record.tokens.end(), client.alone.begin());
      EXPECT_TRUE(begins) << "request " << i + 1 << " got another token than it gets alone";
      client.ended = record.finished;
    }
  }

  void Count(const Client& client, Outcomes& outcomes) const {
    const RecordingSink::Record record = client.sink->record();
    EXPECT_TRUE(record.finished);
    EXPECT_EQ(record.breaches, 0);
    CheckPrompt(client, record);
    switch (record.code) {
      case absl::StatusCode::kOk:
        EXPECT_EQ(record.tokens, client.alone);
        ++outcomes.whole;
        return;
      case absl::StatusCode::kCancelled:
        EXPECT_TRUE(client.aborted);
        ++outcomes.cancelled;
        return;
      case absl::StatusCode::kDeadlineExceeded:
        EXPECT_NE(client.request.deadline, absl::InfiniteFuture());
        ++outcomes.late;
        return;
      case absl::StatusCode::kUnavailable:
        if (client.request.deadline != absl::InfiniteFuture()) {
          ++outcomes.late;
        } else {
          EXPECT_FALSE(engine_->engine().alive());
          ++outcomes.unavailable;
        }
        return;
      default:
        break;
    }
    EXPECT_EQ(record.code, absl::StatusCode::kInternal) << record.message;
    if (record.message.find("no numbers") != std::string::npos) {
      EXPECT_EQ(record.tokens, client.alone);
      ++outcomes.failed;
    } else {
      EXPECT_NE(record.message.find("not tried any more"), std::string::npos) << record.message;
      EXPECT_TRUE(faults_ || Poisonous(client));
      ++outcomes.given_up;
      outcomes.innocent += Poisonous(client) ? 0 : 1;
    }
  }

  // Each of the prompt's log-probabilities exactly once, before the first token.
  static void CheckPrompt(const Client& client, const RecordingSink::Record& record) {
    const std::vector<int32_t>& prompt = client.request.prompt;
    EXPECT_TRUE(client.request.sampling.prompt_logprobs >= 0 || record.prompt.empty());
    for (size_t i = 0; i < record.prompt.size(); ++i) {
      ASSERT_EQ(record.prompt[i].position, static_cast<int64_t>(i) + 1);
      EXPECT_EQ(record.prompt[i].token.token, prompt[i + 1]);
    }
    if (client.request.sampling.prompt_logprobs >= 0 && !record.tokens.empty()) {
      EXPECT_EQ(record.prompt.size(), prompt.size() - 1);
    }
  }

  static bool Poisonous(const Client& client) {
    return std::count(client.request.prompt.begin(), client.request.prompt.end(), kPoison) +
               std::count(client.alone.begin(), client.alone.end(), kPoison) >
           0;
  }

  std::mt19937_64 random_;
  FakeModelOptions model_;
  int32_t num_stages_ = 1;
  EngineOptions options_;
  PipelineOptions pipeline_;
  bool poison_ = false;
  bool faults_ = false;
  std::unique_ptr<VirtualEngine> engine_;
  std::vector<Client> clients_;
  int64_t told_ = 0;
};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(EngineSim, EveryStreamIsWhatItIsAlone) {
  const bool one =
      std::getenv("PENSTOCK_SIM_SEED") != nullptr && std::getenv("PENSTOCK_SIM_SEEDS") == nullptr;
  SetLogLevel(one ? LogLevel::kInfo : LogLevel::kError);
  const uint64_t first = FromEnvironment("PENSTOCK_SIM_SEED", 0);
  const uint64_t count = FromEnvironment("PENSTOCK_SIM_SEEDS", one ? 1 : 200);
  Outcomes outcomes;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE(absl::StrCat("run it alone with PENSTOCK_SIM_SEED=", seed));
    Simulation simulation(seed);
    simulation.Run(400);
    simulation.Finish(outcomes);
    if (HasFailure()) break;
  }
  printf(
      "%lu seeds: whole %ld, no numbers %ld, cancelled %ld, late %ld, given up %ld (innocent %ld), "
      "unavailable %ld; "
      "recoveries %ld, preemptions %ld\n",
      count, outcomes.whole, outcomes.failed, outcomes.cancelled, outcomes.late, outcomes.given_up,
      outcomes.innocent, outcomes.unavailable, outcomes.recoveries, outcomes.preemptions);
  if (count < 100 || HasFailure()) return;
  // What it is for has happened.
  EXPECT_GT(outcomes.whole, static_cast<int64_t>(count) * 5);
  for (int64_t often : {outcomes.failed, outcomes.cancelled, outcomes.late, outcomes.given_up,
                        outcomes.unavailable, outcomes.recoveries}) {
    EXPECT_GT(often, 0);
  }
}

}  // namespace
}  // namespace penstock
