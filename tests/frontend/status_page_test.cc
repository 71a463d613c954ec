#include "frontend/status_page.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace penstock {
namespace {

StatusReport Report(PipelineState state) {
  StatusReport report;
  report.gauges.state = state;
  report.gauges.running = 3;
  report.gauges.blocks_total = 40;
  report.gauges.blocks_used = 10;
  report.model = "a <b> & \"c\"";
  report.uptime = absl::Seconds(90.5);
  report.numbers.resize(2);
  report.numbers[1].up = true;
  report.numbers[1].plans = 7;
  report.numbers[1].compute_ns = 3'000'000'000;
  report.numbers[1].wait_input_ns = 1'000'000'000;
  report.stages.resize(2);
  report.stages[0].config.num_layers = 8;  // and no range: all of them
  report.stages[1].layers = {4, 8};
  report.stages[1].num_blocks = 40;
  report.stages[1].block_bytes = 1000;
  return report;
}

TEST(StatusPageTest, ProbesTellTheState) {
  struct Case {
    PipelineState state;
    int live;
    int ready;
    const char* word;
  };
  for (const Case& one : {Case{PipelineState::kLoading, 200, 503, "loading"},
                          Case{PipelineState::kReady, 200, 200, "ready"},
                          Case{PipelineState::kRecovering, 200, 503, "recovering"},
                          Case{PipelineState::kFailed, 503, 503, "restart the server"},
                          Case{PipelineState::kDraining, 200, 503, "draining"}}) {
    const StatusReport report = Report(one.state);
    EXPECT_EQ(Liveness(report).status, one.live) << one.word;
    EXPECT_EQ(Readiness(report).status, one.ready) << one.word;
    EXPECT_NE(Readiness(report).body.find(one.word), std::string::npos) << Readiness(report).body;
  }
}

TEST(StatusPageTest, SaysWhyAStageWasLost) {
  StatusReport report = Report(PipelineState::kRecovering);
  report.last_loss = "stage 1: killed by signal 9";
  EXPECT_NE(Readiness(report).body.find(report.last_loss), std::string::npos);
  report.gauges.state = PipelineState::kReady;
  EXPECT_EQ(Readiness(report).body, "ready\n");
  EXPECT_NE(StatusHtml(report).body.find(report.last_loss), std::string::npos);
}

TEST(StatusPageTest, JsonHoldsTheStages) {
  const nlohmann::json json = nlohmann::json::parse(StatusJson(Report(PipelineState::kReady)).body);
  EXPECT_EQ(json["state"], "ready");
  EXPECT_EQ(json["model"], "a <b> & \"c\"");
  EXPECT_EQ(json["requests_running"], 3);
  EXPECT_EQ(json["blocks_total"], 40);
  EXPECT_EQ(json["uptime_seconds"], 90.5);
  ASSERT_EQ(json["stages"].size(), 2u);
  EXPECT_EQ(json["stages"][0]["up"], false);
  EXPECT_EQ(json["stages"][0]["first_layer"], 0);
  EXPECT_EQ(json["stages"][0]["last_layer"], 7);
  EXPECT_EQ(json["stages"][1]["first_layer"], 4);
  EXPECT_EQ(json["stages"][1]["last_layer"], 7);
  EXPECT_EQ(json["stages"][1]["kv_bytes"], 40'000);
  EXPECT_EQ(json["stages"][1]["busy"], 0.75);
}

TEST(StatusPageTest, WhatIsNotUtf8IsShownAllTheSame) {
  StatusReport report = Report(PipelineState::kReady);
  report.last_loss = "no file \xff";
  EXPECT_TRUE(nlohmann::json::accept(StatusJson(report).body));
}

TEST(StatusPageTest, HtmlEscapesWhatFilesSay) {
  const std::string body = StatusHtml(Report(PipelineState::kReady)).body;
  EXPECT_NE(body.find("a &lt;b&gt; &amp; &quot;c&quot;"), std::string::npos);
  EXPECT_EQ(body.find("<b>"), std::string::npos);
  EXPECT_NE(body.find("75 %"), std::string::npos);
  EXPECT_EQ(body.find("<script"), std::string::npos);
}

TEST(StatusPageTest, ThereIsAPageWhileTheModelLoads) {
  StatusReport report = Report(PipelineState::kLoading);
  report.stages.clear();
  report.model.clear();
  EXPECT_NE(StatusHtml(report).body.find("loading"), std::string::npos);
  const nlohmann::json json = nlohmann::json::parse(StatusJson(report).body);
  EXPECT_FALSE(json["stages"][1].contains("first_layer"));
  EXPECT_EQ(json["stages"][1]["plans"], 7);
}

}  // namespace
}  // namespace penstock
