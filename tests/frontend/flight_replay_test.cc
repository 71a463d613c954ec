#include "frontend/flight_replay.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <deque>
#include <filesystem>
#include <fstream>

#include "core/sched/scheduler.h"
#include "frontend/flight_file.h"
#include "tests/support/pipeline_costs.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

class FlightReplayTest : public ::testing::Test {
 protected:
  std::unique_ptr<StageExecutor> Stage() const {
    std::unique_ptr<StageExecutor> stage = MakeModelStage();
    EXPECT_TRUE(IsOk(stage->Load(options_)));
    return stage;
  }
  // What a recorder has of some answers with plans ahead; the last plans have no results.
  FlightRecord Record() const {
    const std::unique_ptr<StageExecutor> stage = Stage();
    EpochStart start;
    start.epoch = 2;
    start.num_blocks = 12;
    EXPECT_TRUE(stage->BeginEpoch(start).ok());
    SchedulerOptions options;
    options.num_blocks = 12;
    options.max_sequences = 2;
    options.max_step_tokens = 64;
    options.plans_ahead = 3;
    Scheduler scheduler(options, EvenCost(1));
    for (int32_t i = 0; i < 5; ++i) {
      SequenceRequest request;
      for (int32_t at = 0; at < 30 + 40 * i; ++at) request.prompt.push_back((i + at) % kTinyVocab);
      request.max_tokens = 12;
      request.sampling.temperature = i % 2 == 0 ? 0.0f : 1.0f;
      request.sampling.seed = static_cast<uint64_t>(i);
      request.sampling.logprobs = i;
      if (i == 2) request.sampling.frequency_penalty = 1.0f;
      if (i == 3) request.sampling.prompt_logprobs = 1;
      scheduler.Add(i, std::move(request));
    }
    FlightRecord record;
    const auto keep = [&](FlightRecord told) { record = std::move(told); };
    FlightRecorder recorder(/*max_plans=*/1000, keep);
    std::deque<StepPlan> plans;
    for (int ended = 0; ended < 4;) {
      while (std::optional<StepPlan> plan = scheduler.Schedule()) {
        plan->epoch = 2;
        recorder.OnPlan(*plan);
        plans.push_back(*std::move(plan));
      }
      absl::StatusOr<StepResult> result = stage->Execute(plans.front());
      EXPECT_TRUE(IsOk(result));
      plans.pop_front();
      recorder.OnResult(*result);
      for (const SequenceProgress& step : scheduler.Commit(*std::move(result))) {
        if (step.end != SequenceEnd::kNone) ++ended;
      }
    }
    FlightRecord about;
    about.stage = options_;
    about.num_blocks = 12;
    about.epoch = 2;
    about.reason = "stage 1: killed";
    recorder.EndEpoch(std::move(about));
    return record;
  }
  FlightReplay Replay(const FlightRecord& record) const {
    const absl::StatusOr<FlightReplay> replay = ReplayFlight(record, *Stage());
    EXPECT_TRUE(IsOk(replay));
    return replay.value_or(FlightReplay());
  }

  FlightReplayTest() {
    options_.model = file_.path();
    options_.num_blocks = 12;
    options_.max_step_tokens = 64;
    options_.max_sequences = 2;
    options_.plans_ahead = 3;
    options_.threads = 1;
  }

  const TempFile file_{TinyModel().Build()};
  StageOptions options_;
};

TEST_F(FlightReplayTest, TheSamePlansGiveTheSame) {
  const FlightRecord record = Record();
  const FlightReplay replay = Replay(record);
  EXPECT_EQ(replay.difference, "");
  EXPECT_EQ(replay.left_out, 0);
  EXPECT_EQ(replay.plans, static_cast<int64_t>(record.entries.size()));
  EXPECT_GT(replay.compared, 4 * 12 + 100);
}

TEST_F(FlightReplayTest, NamesTheFirstDifference) {
  FlightRecord record = Record();
  FlightEntry* later = nullptr;
  for (FlightEntry& entry : record.entries) {
    if (entry.plan.number > 10 && entry.result && !entry.result->samples.empty()) later = &entry;
    if (later != nullptr) break;
  }
  ASSERT_NE(later, nullptr);
  later->result->samples[0].token ^= 1;
  const std::string difference = Replay(record).difference;
  EXPECT_NE(difference.find(absl::StrCat("plan ", later->plan.number, ", slot ")),
            std::string::npos)
      << difference;
}

TEST_F(FlightReplayTest, WhatBeganBeforeTheRecordIsLeftOut) {
  FlightRecord record = Record();
  record.entries.erase(record.entries.begin(), record.entries.begin() + 6);
  const FlightReplay replay = Replay(record);
  EXPECT_EQ(replay.difference, "");
  EXPECT_GT(replay.left_out, 0);
  EXPECT_GT(replay.compared, 12);
}

TEST_F(FlightReplayTest, APlanThatCannotBeRunIsNamed) {
  FlightRecord record = Record();
  record.entries[0].plan.rows[0].blocks[0] = 99;
  const absl::Status status = ReplayFlight(record, *Stage()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(Message(status).find("plan 1 cannot be run"), std::string::npos) << status;
}

TEST_F(FlightReplayTest, ARecordPassesThroughAFile) {
  const std::filesystem::path dir =
      std::filesystem::temp_directory_path() / absl::StrCat("penstock_flight_", getpid());
  std::filesystem::create_directory(dir);
  const FlightRecord record = Record();
  MakeFlightWriter(dir.string())(record);  // and is gone: so it is written
  ASSERT_EQ(std::distance(std::filesystem::directory_iterator(dir), {}), 1);
  const std::string path = std::filesystem::directory_iterator(dir)->path().string();
  struct stat status = {};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const absl::StatusOr<FlightRecord> read = ReadFlightRecord(path);
  ASSERT_TRUE(IsOk(read));
  EXPECT_EQ(read->epoch, 2u);
  EXPECT_EQ(read->num_blocks, 12);
  EXPECT_EQ(read->reason, record.reason);
  EXPECT_EQ(read->stage.max_sequences, 2);
  ASSERT_EQ(read->entries.size(), record.entries.size());
  EXPECT_FALSE(read->entries.back().result.has_value());
  const FlightReplay replay = Replay(*read);
  EXPECT_EQ(replay.difference, "");
  EXPECT_GT(replay.compared, 100);

  std::ofstream(path) << "no such thing";
  EXPECT_EQ(ReadFlightRecord(path).status().code(), absl::StatusCode::kInvalidArgument);
  std::filesystem::remove_all(dir);
  EXPECT_EQ(ReadFlightRecord(path).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace penstock
