#include "frontend/metrics.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <sstream>

namespace penstock {
namespace {

const std::string kEngine = "model_name=\"m\",engine=\"0\"";

// Every line of a text by what stands before its value.
std::map<std::string, double> Values(const std::string& text) {
  std::map<std::string, double> values;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.front() == '#') continue;
    const size_t space = line.rfind(' ');
    EXPECT_TRUE(values.emplace(line.substr(0, space), std::stod(line.substr(space))).second)
        << line;
  }
  return values;
}

class MetricsTest : public testing::Test {
 protected:
  MetricsTest() { metrics_.SetModel("m", 40); }

  // The value of `name` with the labels `more` behind those of all.
  double Value(const std::string& name, const std::string& more = "") {
    const std::string line = name + "{" + kEngine + (more.empty() ? "" : "," + more) + "}";
    const std::map<std::string, double> values = Values(metrics_.Text());
    const auto found = values.find(line);
    EXPECT_NE(found, values.end()) << line;
    return found == values.end() ? -1 : found->second;
  }
  double Bucket(const std::string& name, const std::string& bound, const std::string& more = "") {
    return Value(name + "_bucket", (more.empty() ? "" : more + ",") + "le=\"" + bound + "\"");
  }

  Metrics metrics_{2};
};

RequestRecord Request(FinishReason reason, absl::StatusCode code) {
  const absl::Time start = absl::FromUnixSeconds(1000);
  RequestRecord request;
  request.reason = reason;
  request.code = code;
  request.prompt_tokens = 100;
  request.cached_tokens = 64;
  request.generated_tokens = 11;
  request.max_tokens = 50;
  request.arrived = start;
  request.started = start + absl::Milliseconds(400);
  request.first_token = start + absl::Milliseconds(1000);
  request.finished = start + absl::Milliseconds(3000);
  return request;
}

TEST_F(MetricsTest, ARequestIsCountedOnceAtItsEnd) {
  metrics_.OnRequest(Request(FinishReason::kStop, absl::StatusCode::kOk));
  EXPECT_EQ(Value("vllm:request_success_total", "finished_reason=\"stop\""), 1);
  EXPECT_EQ(Value("vllm:request_success_total", "finished_reason=\"length\""), 0);
  EXPECT_EQ(Value("penstock_requests_ended_total", "code=\"OK\""), 1);
  EXPECT_EQ(Value("vllm:prompt_tokens_total"), 100);
  EXPECT_EQ(Value("vllm:request_prompt_tokens_sum"), 100);
  EXPECT_EQ(Value("vllm:request_generation_tokens_sum"), 11);
  EXPECT_EQ(Value("vllm:request_params_max_tokens_sum"), 50);
  EXPECT_EQ(Value("vllm:request_prefill_kv_computed_tokens_sum"), 36);
  EXPECT_EQ(Value("vllm:e2e_request_latency_seconds_sum"), 3);
  EXPECT_EQ(Value("vllm:request_queue_time_seconds_sum"), 0.4);
  EXPECT_EQ(Value("vllm:request_inference_time_seconds_sum"), 2.6);
  EXPECT_EQ(Value("vllm:request_prefill_time_seconds_sum"), 0.6);
  EXPECT_EQ(Value("vllm:request_decode_time_seconds_sum"), 2);
  EXPECT_EQ(Value("vllm:request_time_per_output_token_seconds_sum"), 0.2);
  EXPECT_EQ(Bucket("vllm:e2e_request_latency_seconds", "2.5"), 0);
  EXPECT_EQ(Bucket("vllm:e2e_request_latency_seconds", "5"), 1);
  EXPECT_EQ(Value("penstock_requests_carried_over_total"), 0);
}

TEST_F(MetricsTest, ARequestThatNeverRanHasWaitedAndNothingElse) {
  RequestRecord request = Request(FinishReason::kError, absl::StatusCode::kDeadlineExceeded);
  request.started = request.first_token = absl::InfiniteFuture();
  request.generated_tokens = 0;
  metrics_.OnRequest(request);
  EXPECT_EQ(Value("vllm:request_success_total", "finished_reason=\"error\""), 1);
  EXPECT_EQ(Value("penstock_requests_ended_total", "code=\"DEADLINE_EXCEEDED\""), 1);
  EXPECT_EQ(Value("vllm:request_queue_time_seconds_sum"), 3);
  EXPECT_EQ(Value("vllm:e2e_request_latency_seconds_count"), 1);
  for (const std::string name : {"inference_time", "prefill_time", "decode_time"}) {
    EXPECT_EQ(Value("vllm:request_" + name + "_seconds_count"), 0) << name;
  }
}

TEST_F(MetricsTest, ARequestWithoutAnAnswerHasRun) {
  RequestRecord request = Request(FinishReason::kAbort, absl::StatusCode::kCancelled);
  request.first_token = absl::InfiniteFuture();
  request.generated_tokens = 0;
  request.recoveries = 2;
  metrics_.OnRequest(request);
  EXPECT_EQ(Value("vllm:request_success_total", "finished_reason=\"abort\""), 1);
  EXPECT_EQ(Value("penstock_requests_ended_total", "code=\"CANCELLED\""), 1);
  EXPECT_EQ(Value("penstock_requests_carried_over_total"), 1);
  EXPECT_EQ(Value("vllm:request_inference_time_seconds_count"), 1);
  EXPECT_EQ(Value("vllm:request_decode_time_seconds_count"), 0);
  // One token has no time between tokens.
  request.first_token = request.started;
  request.generated_tokens = 1;
  metrics_.OnRequest(request);
  EXPECT_EQ(Value("vllm:request_decode_time_seconds_count"), 1);
  EXPECT_EQ(Value("vllm:request_time_per_output_token_seconds_count"), 0);
}

TEST_F(MetricsTest, EveryTokenCounts) {
  metrics_.OnFirstToken(absl::Milliseconds(30));
  metrics_.OnTokenGap(absl::Milliseconds(20));
  metrics_.OnTokenGap(absl::Milliseconds(25));
  EXPECT_EQ(Value("vllm:generation_tokens_total"), 3);
  EXPECT_EQ(Bucket("vllm:time_to_first_token_seconds", "0.02"), 0);
  EXPECT_EQ(Bucket("vllm:time_to_first_token_seconds", "0.04"), 1);
  EXPECT_EQ(Bucket("vllm:inter_token_latency_seconds", "0.01"), 0);
  EXPECT_EQ(Bucket("vllm:inter_token_latency_seconds", "0.025"), 2);
  EXPECT_EQ(Value("vllm:inter_token_latency_seconds_sum"), 0.045);
}

TEST_F(MetricsTest, TheEnginesTurns) {
  metrics_.OnPlan(1, 3, 200);
  metrics_.OnPreemption(7);
  metrics_.OnPrefixLookup(100, 64);
  metrics_.OnPrefixLookup(50, 0);
  metrics_.OnRefused(absl::StatusCode::kResourceExhausted);
  metrics_.OnRefused(static_cast<absl::StatusCode>(99));
  EngineGauges gauges;
  gauges.state = PipelineState::kRecovering;
  gauges.running = 4;
  gauges.waiting = 5;
  gauges.waiting_tokens = 600;
  gauges.blocks_total = 40;
  gauges.blocks_used = 10;
  gauges.blocks_cached = 20;
  gauges.plans_in_flight = 3;
  gauges.epoch = 2;
  metrics_.SetReady();
  metrics_.OnGauges(gauges);
  EXPECT_EQ(Value("penstock_plans_total"), 1);
  EXPECT_EQ(Bucket("vllm:iteration_tokens_total", "128"), 0);
  EXPECT_EQ(Bucket("vllm:iteration_tokens_total", "256"), 1);
  EXPECT_EQ(Bucket("penstock_plan_rows", "4"), 1);
  EXPECT_EQ(Value("vllm:num_preemptions_total"), 1);
  EXPECT_EQ(Value("vllm:prefix_cache_queries_total"), 150);
  EXPECT_EQ(Value("vllm:prefix_cache_hits_total"), 64);
  EXPECT_EQ(Value("penstock_requests_refused_total", "code=\"RESOURCE_EXHAUSTED\""), 1);
  EXPECT_EQ(Value("penstock_requests_refused_total", "code=\"UNKNOWN\""), 1);
  EXPECT_EQ(Value("vllm:num_requests_running"), 4);
  EXPECT_EQ(Value("vllm:num_requests_waiting"), 5);
  EXPECT_EQ(Value("penstock_waiting_tokens"), 600);
  EXPECT_EQ(Value("vllm:kv_cache_usage_perc"), 0.25);
  EXPECT_EQ(Value("penstock_kv_blocks", "state=\"owned\""), 10);
  EXPECT_EQ(Value("penstock_kv_blocks", "state=\"cached\""), 20);
  EXPECT_EQ(Value("penstock_kv_blocks", "state=\"free\""), 10);
  EXPECT_EQ(Value("penstock_plans_in_flight"), 3);
  EXPECT_EQ(Value("penstock_epoch"), 2);
  EXPECT_EQ(Value("penstock_pipeline_state", "state=\"recovering\""), 1);
  EXPECT_EQ(Value("penstock_pipeline_state", "state=\"ready\""), 0);
  EXPECT_EQ(Value("vllm:cache_config_info", "block_size=\"64\",num_gpu_blocks=\"40\""), 1);
  const EngineGauges told = metrics_.gauges();
  EXPECT_EQ(told.state, PipelineState::kRecovering);
  EXPECT_EQ(told.blocks_total, 40);
  EXPECT_EQ(told.waiting_tokens, 600);
}

TEST_F(MetricsTest, AStagesPlansAndSigns) {
  StageRecord record;
  record.stage = 1;
  record.epoch = 3;
  record.rows = 2;
  record.tokens = 65;
  record.prefill_tokens = 64;
  record.submitted = absl::FromUnixSeconds(5);
  record.received = record.submitted + absl::Milliseconds(30);
  record.times = {.start_ns = 1,
                  .compute_ns = 10'000'000,
                  .wait_plan_ns = 1'000'000,
                  .wait_input_ns = 2'000'000,
                  .send_ns = 500'000};
  metrics_.OnStage(record);
  const std::string stage = "stage=\"1\"";
  EXPECT_EQ(Value("penstock_stage_plans_total", stage), 1);
  EXPECT_EQ(Value("penstock_stage_plans_total", "stage=\"0\""), 0);
  EXPECT_EQ(Value("penstock_stage_rows_total", stage), 2);
  EXPECT_EQ(Value("penstock_stage_tokens_total", stage), 65);
  EXPECT_EQ(Value("penstock_stage_prefill_tokens_total", stage), 64);
  EXPECT_EQ(Value("penstock_stage_compute_seconds_sum", stage), 0.01);
  EXPECT_EQ(Bucket("penstock_stage_compute_seconds", "0.005", stage), 0);
  EXPECT_EQ(Bucket("penstock_stage_compute_seconds", "0.01", stage), 1);
  EXPECT_EQ(Value("penstock_stage_wait_plan_seconds_sum", stage), 0.001);
  EXPECT_EQ(Value("penstock_stage_wait_input_seconds_sum", stage), 0.002);
  EXPECT_EQ(Value("penstock_stage_send_seconds_sum", stage), 0.0005);
  EXPECT_EQ(Value("penstock_stage_turnaround_seconds_sum", stage), 0.03);
  EXPECT_EQ(Value("penstock_stage_epoch", stage), 3);

  StageBeat beat;
  beat.epoch = 4;
  beat.queued = 2;
  beat.resident_bytes = 1 << 20;
  beat.cpu_ns = 2'500'000'000;
  beat.voids = 6;
  beat.device_memory = {1 << 30, 4096, 17};
  metrics_.OnBeat(1, beat);
  EXPECT_EQ(Value("penstock_stage_epoch", stage), 4);
  EXPECT_EQ(Value("penstock_stage_queued_plans", stage), 2);
  EXPECT_EQ(Value("penstock_stage_resident_memory_bytes", stage), 1 << 20);
  EXPECT_EQ(Value("penstock_stage_cpu_seconds_total", stage), 2.5);
  EXPECT_EQ(Value("penstock_stage_void_rows_total", stage), 6);
  EXPECT_EQ(Value("penstock_stage_device_memory_used_bytes", stage), 1 << 30);
  EXPECT_EQ(Value("penstock_stage_device_memory_cached_bytes", stage), 4096);
  EXPECT_EQ(Value("penstock_stage_device_allocations_total", stage), 17);
  const StageNumbers numbers = metrics_.stage(1);
  EXPECT_EQ(numbers.tokens, 65);
  EXPECT_EQ(numbers.compute_ns, 10'000'000);
  EXPECT_EQ(numbers.cpu_ns, 2'500'000'000);
  // Of a stage that there is not.
  record.stage = 2;
  metrics_.OnStage(record);
  metrics_.OnBeat(-1, beat);
  EXPECT_EQ(Value("penstock_stage_plans_total", stage), 1);
}

TEST_F(MetricsTest, ALossAndItsRecovery) {
  EXPECT_EQ(metrics_.last_loss(), "");
  EXPECT_EQ(Value("penstock_stage_up", "stage=\"1\""), 1);
  metrics_.OnStageLost(1, absl::UnavailableError("killed by signal 9"));
  EXPECT_EQ(metrics_.last_loss(), "stage 1: killed by signal 9");
  EXPECT_EQ(Value("penstock_stage_up", "stage=\"0\""), 1);
  EXPECT_EQ(Value("penstock_stage_up", "stage=\"1\""), 0);
  EXPECT_EQ(Value("penstock_stage_losses_total", "stage=\"1\""), 1);
  EXPECT_EQ(metrics_.stage(1).losses, 1);
  metrics_.OnRecovered(absl::Milliseconds(150));
  EXPECT_EQ(Value("penstock_stage_up", "stage=\"1\""), 1);
  EXPECT_EQ(Bucket("penstock_recovery_seconds", "0.1"), 0);
  EXPECT_EQ(Bucket("penstock_recovery_seconds", "0.2"), 1);
}

TEST(MetricsStateTest, GoesFromLoadingToTheEnginesAndToDraining) {
  Metrics metrics(1);
  EngineGauges gauges;
  gauges.state = PipelineState::kReady;
  metrics.OnGauges(gauges);
  // The engine runs, but the server has not checked its answers yet.
  EXPECT_EQ(metrics.state(), PipelineState::kLoading);
  EXPECT_EQ(metrics.Text().find("model_name"), std::string::npos);
  metrics.SetReady();
  EXPECT_EQ(metrics.state(), PipelineState::kReady);
  gauges.state = PipelineState::kFailed;
  metrics.OnGauges(gauges);
  EXPECT_EQ(metrics.state(), PipelineState::kFailed);
  metrics.SetDraining();
  EXPECT_EQ(metrics.state(), PipelineState::kDraining);
}

// The interface: whoever has a dashboard relies on these.
TEST_F(MetricsTest, Names) {
  std::set<std::string> families;
  std::istringstream lines(metrics_.Text());
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("# TYPE ", 0) == 0) families.insert(line.substr(7));
  }
  const std::set<std::string> expected = {
      "vllm:num_requests_running gauge",
      "vllm:num_requests_waiting gauge",
      "vllm:kv_cache_usage_perc gauge",
      "vllm:cache_config_info gauge",
      "vllm:prefix_cache_queries_total counter",
      "vllm:prefix_cache_hits_total counter",
      "vllm:num_preemptions_total counter",
      "vllm:prompt_tokens_total counter",
      "vllm:generation_tokens_total counter",
      "vllm:request_success_total counter",
      "vllm:iteration_tokens_total histogram",
      "vllm:time_to_first_token_seconds histogram",
      "vllm:inter_token_latency_seconds histogram",
      "vllm:request_time_per_output_token_seconds histogram",
      "vllm:e2e_request_latency_seconds histogram",
      "vllm:request_queue_time_seconds histogram",
      "vllm:request_inference_time_seconds histogram",
      "vllm:request_prefill_time_seconds histogram",
      "vllm:request_decode_time_seconds histogram",
      "vllm:request_prompt_tokens histogram",
      "vllm:request_generation_tokens histogram",
      "vllm:request_params_max_tokens histogram",
      "vllm:request_prefill_kv_computed_tokens histogram",
      "penstock_plans_total counter",
      "penstock_plan_rows histogram",
      "penstock_plans_in_flight gauge",
      "penstock_waiting_tokens gauge",
      "penstock_kv_blocks gauge",
      "penstock_epoch gauge",
      "penstock_pipeline_state gauge",
      "penstock_recovery_seconds histogram",
      "penstock_requests_ended_total counter",
      "penstock_requests_refused_total counter",
      "penstock_requests_carried_over_total counter",
      "penstock_stage_up gauge",
      "penstock_stage_device_allocations_total counter",
      "penstock_stage_device_memory_cached_bytes gauge",
      "penstock_stage_device_memory_used_bytes gauge",
      "penstock_stage_epoch gauge",
      "penstock_stage_losses_total counter",
      "penstock_stage_plans_total counter",
      "penstock_stage_rows_total counter",
      "penstock_stage_tokens_total counter",
      "penstock_stage_prefill_tokens_total counter",
      "penstock_stage_compute_seconds histogram",
      "penstock_stage_wait_plan_seconds histogram",
      "penstock_stage_wait_input_seconds histogram",
      "penstock_stage_send_seconds histogram",
      "penstock_stage_turnaround_seconds histogram",
      "penstock_stage_queued_plans gauge",
      "penstock_stage_resident_memory_bytes gauge",
      "penstock_stage_cpu_seconds_total counter",
      "penstock_stage_void_rows_total counter",
      "process_cpu_seconds_total counter",
      "process_resident_memory_bytes gauge",
  };
  EXPECT_EQ(families, expected);
}

}  // namespace
}  // namespace penstock
