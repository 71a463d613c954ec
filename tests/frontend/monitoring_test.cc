#include "frontend/monitoring.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/http_client.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

class MonitoringTest : public testing::Test {
 protected:
  MonitoringTest()
      : folder_(testing::TempDir() + "penstock_monitoring_" + std::to_string(getpid())) {
    std::filesystem::create_directory(folder_);
    options_.metrics_listen = "127.0.0.1:0";
  }
  ~MonitoringTest() override { std::filesystem::remove_all(folder_); }

  void Start() {
    absl::StatusOr<std::unique_ptr<Monitoring>> monitoring = Monitoring::Start(options_, 2);
    ASSERT_TRUE(IsOk(monitoring));
    monitoring_ = *std::move(monitoring);
    const std::string address = monitoring_->address();
    if (!address.empty()) port_ = std::stoi(address.substr(address.rfind(':') + 1));
  }
  void Tell(PipelineState state) {
    EngineGauges gauges;
    gauges.state = state;
    gauges.running = 6;
    monitoring_->observer().OnGauges(gauges);
  }

  const std::string folder_;
  MonitoringOptions options_;
  std::unique_ptr<Monitoring> monitoring_;
  int port_ = 0;
};

TEST_F(MonitoringTest, ProbesFollowTheServersLife) {
  Start();
  const auto ready = [this] { return HttpGet(port_, "/readyz"); };
  EXPECT_EQ(HttpStatus(ready()), 503);
  EXPECT_NE(ready().find("loading"), std::string::npos);
  StageInfo info;
  info.num_blocks = 30;
  StageInfo smaller = info;
  smaller.num_blocks = 20;
  monitoring_->SetModel("tiny", {info, smaller});
  Tell(PipelineState::kReady);
  EXPECT_EQ(HttpStatus(ready()), 503);  // not checked yet
  monitoring_->SetReady();
  EXPECT_EQ(HttpStatus(ready()), 200);
  Tell(PipelineState::kRecovering);
  EXPECT_EQ(HttpStatus(ready()), 503);
  EXPECT_EQ(HttpStatus(HttpGet(port_, "/livez")), 200);
  Tell(PipelineState::kFailed);
  EXPECT_EQ(HttpStatus(HttpGet(port_, "/livez")), 503);
  monitoring_->SetDraining();
  EXPECT_NE(ready().find("draining"), std::string::npos);
}

TEST_F(MonitoringTest, PagesShowWhatTheEngineTold) {
  Start();
  StageInfo info;
  info.num_blocks = 30;
  StageInfo smaller = info;
  smaller.num_blocks = 20;
  monitoring_->SetModel("tiny", {info, smaller});
  Tell(PipelineState::kReady);
  const std::string metrics = HttpGet(port_, "/metrics");
  EXPECT_NE(metrics.find("Content-Type: text/plain; version=0.0.4"), std::string::npos);
  EXPECT_NE(metrics.find("vllm:num_requests_running{model_name=\"tiny\",engine=\"0\"} 6\n"),
            std::string::npos);
  EXPECT_NE(metrics.find("num_gpu_blocks=\"20\""), std::string::npos);
  const nlohmann::json status = nlohmann::json::parse(HttpBody(HttpGet(port_, "/status")));
  EXPECT_EQ(status["requests_running"], 6);
  EXPECT_EQ(status["model"], "tiny");
  EXPECT_NE(HttpGet(port_, "/").find("<h1>Penstock</h1>"), std::string::npos);
}

TEST_F(MonitoringTest, WritesItsPortAndATrace) {
  options_.metrics_port_file = folder_ + "/port";
  options_.trace_file = folder_ + "/trace";
  Start();
  int port = 0;
  std::ifstream(options_.metrics_port_file) >> port;
  EXPECT_EQ(port, port_);
  monitoring_->observer().OnPreemption(5);
  monitoring_.reset();
  std::ifstream trace(options_.trace_file);
  const nlohmann::json events = nlohmann::json::parse(trace);
  EXPECT_EQ(events.back()["name"], "preempted: request 5");
}

TEST_F(MonitoringTest, CanBeOff) {
  options_.metrics_listen = "off";
  Start();
  EXPECT_EQ(monitoring_->address(), "");
  Tell(PipelineState::kReady);
  EXPECT_EQ(monitoring_->Report().gauges.running, 6);
}

TEST_F(MonitoringTest, SaysWhichFlagIsWrong) {
  options_.metrics_listen = "8000";
  EXPECT_TRUE(Fails(Monitoring::Start(options_, 1), absl::StatusCode::kInvalidArgument,
                    {"--metrics-listen", "HOST:PORT"}));
  options_.metrics_listen = "127.0.0.1:0";
  options_.metrics_port_file = "/nowhere/port";
  EXPECT_TRUE(
      Fails(Monitoring::Start(options_, 1), absl::StatusCode::kInvalidArgument, {"/nowhere/port"}));
}

}  // namespace
}  // namespace penstock
