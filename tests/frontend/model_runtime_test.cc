// A model over real worker processes: what one stage in this process answers, they answer, also
// when they are killed or stopped in the middle of it.
#include "frontend/model_runtime.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <fstream>

#include "frontend/model_info_handler.h"
#include "frontend/worker_launcher.h"
#include "tests/support/processes.h"
#include "tests/support/recording_sink.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace penstock {
namespace {

// Made by main, before there is any thread.
ProcessSpawner* spawner = nullptr;

// The worker processes, the one that has started last at the end.
std::vector<pid_t> Workers() {
  std::ifstream file(
      absl::StrCat("/proc/", spawner->helper_pid(), "/task/", spawner->helper_pid(), "/children"));
  std::vector<pid_t> workers;
  for (pid_t pid = 0; file >> pid;) {
    if (IsAlive(pid)) workers.push_back(pid);
  }
  std::sort(workers.begin(), workers.end());
  return workers;
}

class ModelRuntimeTest : public ::testing::Test {
 protected:
  ModelRuntimeTest() {
    options_.stage.model = file_.path();
    options_.stage.kv_memory_bytes = 1 << 20;
    options_.stage.threads = 1;
    options_.stage.max_sequences = 8;
    options_.stage.max_step_tokens = 64;
    options_.pipeline.max_deaths = 1000;  // on a busy machine stages may seem to hang
  }
  // Each test leaves no process behind.
  ~ModelRuntimeTest() override {
    EXPECT_TRUE(Eventually([] { return Workers().empty(); }));
  }

  std::unique_ptr<ModelRuntime> Load(int64_t num_stages,
                                     const std::string& transport = "grpc") const {
    RuntimeOptions options = options_;
    options.transport = transport;
    options.num_stages = num_stages;
    options.make_stages = []() -> absl::StatusOr<std::unique_ptr<StageProvider>> {
      return std::make_unique<WorkerLauncher>(
          *spawner, WorkerLaunchOptions{.program = PENSTOCK_TEST_WORKER, .version = "test"});
    };
    absl::StatusOr<std::unique_ptr<ModelRuntime>> runtime = ModelRuntime::Load(options);
    EXPECT_TRUE(IsOk(runtime));
    return *std::move(runtime);
  }
  // More requests than there are slots; one of them penalizes, one tells its prompt.
  static std::vector<std::shared_ptr<RecordingSink>> Submit(ModelRuntime& runtime) {
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int32_t i = 0; i < 12; ++i) {
      GenerationRequest request;
      for (int32_t at = 0; at < 3 + 8 * i; ++at) {
        request.prompt.push_back((i * 7 + at * at) % testing::kTinyVocab);
      }
      request.max_tokens = 150;
      request.sampling.temperature = i % 3 == 0 ? 0.0f : 1.0f;
      request.sampling.seed = static_cast<uint64_t>(i);
      if (i == 4) request.sampling.frequency_penalty = 0.7f;
      if (i == 5) request.sampling.prompt_logprobs = 1;
      if (i == 6) request.sampling.stop_ids = {3, 30, 60};
      sinks.push_back(std::make_shared<RecordingSink>());
      EXPECT_TRUE(IsOk(runtime.engine().Submit(std::move(request), sinks.back())));
    }
    return sinks;
  }
  static void ExpectSame(const std::vector<std::shared_ptr<RecordingSink>>& sinks,
                         const std::vector<std::shared_ptr<RecordingSink>>& expected) {
    for (size_t i = 0; i < sinks.size(); ++i) {
      const RecordingSink::Record record = sinks[i]->Wait();
      const RecordingSink::Record alone = expected[i]->Wait();
      EXPECT_EQ(record.code, absl::StatusCode::kOk) << record.message;
      EXPECT_EQ(record.tokens, alone.tokens) << "request " << i;
      EXPECT_EQ(record.logprobs, alone.logprobs) << "request " << i;
      EXPECT_EQ(record.prompt.size(), alone.prompt.size());
      EXPECT_EQ(record.reason, alone.reason);
      EXPECT_EQ(record.breaches, 0);
    }
  }
  // One of the three stages after the other, in the middle of answers, which go on.
  static void KillEach(ModelRuntime& runtime,
                       const std::vector<std::shared_ptr<RecordingSink>>& expected) {
    for (const size_t killed : {0u, 1u, 2u}) {
      const int64_t recoveries = runtime.engine().stats().recoveries;
      const auto sinks = Submit(runtime);
      sinks[0]->WaitForTokens(3);
      kill(Workers().at(killed), SIGKILL);
      ExpectSame(sinks, expected);
      EXPECT_TRUE(Eventually([&] {
        return runtime.engine().stats().recoveries > recoveries && runtime.engine().ready();
      }));
    }
  }
  std::vector<std::shared_ptr<RecordingSink>> Expected() const {
    const std::unique_ptr<ModelRuntime> runtime = ModelRuntime::Load(options_).value();
    std::vector<std::shared_ptr<RecordingSink>> sinks = Submit(*runtime);
    for (const auto& sink : sinks) sink->Wait();
    return sinks;
  }

  const testing::TempFile file_{testing::TinyModel(2, false, 3).Build()};
  RuntimeOptions options_;
};

TEST_F(ModelRuntimeTest, ProcessesAnswerAsOneStageDoes) {
  const auto expected = Expected();
  for (int64_t stages : {1, 2, 3}) {
    const std::unique_ptr<ModelRuntime> runtime = Load(stages);
    EXPECT_EQ(ModelInfo(*runtime).num_stages(), stages);
    EXPECT_EQ(static_cast<int64_t>(Workers().size()), stages);
    EXPECT_EQ(static_cast<int64_t>(runtime->stages().size()), stages);
    ExpectSame(Submit(*runtime), expected);
    EXPECT_EQ(runtime->engine().stats().recoveries, 0);
  }
}

TEST_F(ModelRuntimeTest, AKilledWorkerLosesNoStream) {
  const auto expected = Expected();
  const std::unique_ptr<ModelRuntime> runtime = Load(3);
  KillEach(*runtime, expected);
  EXPECT_EQ(Workers().size(), 3u);
}

// Rows, and tokens back to the first stage, by shared memory. Each stage is killed.
TEST_F(ModelRuntimeTest, RowsByPeerMemoryLoseNoStreamEither) {
  const auto expected = Expected();
  const std::unique_ptr<ModelRuntime> runtime = Load(3, "peer");
  for (const StageInfo& stage : runtime->stages()) {
    EXPECT_EQ(stage.address.rfind("peer:@", 0), 0u) << stage.address;
  }
  ExpectSame(Submit(*runtime), expected);
  KillEach(*runtime, expected);
}

TEST_F(ModelRuntimeTest, AStoppedWorkerLosesNoStream) {
  const auto expected = Expected();
  const std::unique_ptr<ModelRuntime> runtime = Load(3);
  const auto sinks = Submit(*runtime);
  sinks[0]->WaitForTokens(3);
  kill(Workers().at(1), SIGSTOP);
  ExpectSame(sinks, expected);
  EXPECT_TRUE(runtime->engine().healthy());
}

TEST_F(ModelRuntimeTest, WhatIsWrongWithTheStagesIsTold) {
  RuntimeOptions options = options_;
  options.num_stages = 2;
  EXPECT_TRUE(Fails(ModelRuntime::Load(options).status(), absl::StatusCode::kInvalidArgument,
                    {"2 stages need workers"}));
  options.num_stages = 99;
  EXPECT_TRUE(Fails(ModelRuntime::Load(options).status(), absl::StatusCode::kInvalidArgument,
                    {"99", "stages"}));
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  auto spawner = penstock::ProcessSpawner::Fork();
  if (!spawner.ok()) return 1;
  penstock::spawner = spawner->get();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
