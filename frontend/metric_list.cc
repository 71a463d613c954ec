// The names of Metrics, what they mean, and their buckets.
#include <iterator>

#include "core/base/check.h"
#include "frontend/metrics.h"

namespace penstock {
namespace {

constexpr MetricUnit kNs = MetricUnit::kNanoseconds;
constexpr MetricUnit kOne = MetricUnit::kOne;

// vLLM's buckets, in seconds.
const std::vector<double> kFirstToken = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                         0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                         20,    40,    80,   160,  640,  2560};
const std::vector<double> kPerToken = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                       0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
const std::vector<double> kRequest = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                      30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
// vLLM ends these at the model's context; here they are the same for every model.
const std::vector<double> kSizes = {1,     2,      5,      10,     20,   50,    100,
                                    200,   500,    1000,   2000,   5000, 10000, 20000,
                                    50000, 100000, 200000, 500000, 1e6};
const std::vector<double> kPlanTokens = {1,   8,    16,   32,   64,   128,  256,
                                         512, 1024, 2048, 4096, 8192, 16384};
// Our own.
const std::vector<double> kPlanRows = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
const std::vector<double> kStep = {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02,
                                   0.05,   0.1,    0.2,    0.5,   1,     2,     5,    10};
const std::vector<double> kRecovery = {0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100};

// In the order of FinishReason.
constexpr const char* kReasonNames[] = {"stop", "length", "abort", "error"};
// In the order of PipelineState.
constexpr const char* kStateNames[] = {"loading", "ready", "recovering", "failed", "draining"};

}  // namespace

const char* PipelineStateName(PipelineState state) {
  return kStateNames[static_cast<size_t>(state)];
}

Metrics::Metrics(int32_t num_stages) : stages_(static_cast<size_t>(num_stages)) {
  PENSTOCK_CHECK_GT(num_stages, 0);
  static_assert(std::size(kReasonNames) == kReasons && std::size(kStateNames) == kStates);
  AddEngine();
  AddRequests();
  for (int32_t i = 0; i < num_stages; ++i) AddStage(i);
}

void Metrics::AddEngine() {
  running_now_ = &set_.AddGauge("vllm:num_requests_running", "Requests that run: in a slot.");
  waiting_now_ = &set_.AddGauge("vllm:num_requests_waiting",
                                "Requests that have arrived and do not run, preempted ones too.");
  kv_usage_ = &set_.AddGauge("vllm:kv_cache_usage_perc",
                             "Share of the KV blocks that running requests own; 1 is all.");
  prefix_queries_ = &set_.AddCounter("vllm:prefix_cache_queries_total",
                                     "Prompt tokens that were looked up in the prefix cache.");
  prefix_hits_ = &set_.AddCounter("vllm:prefix_cache_hits_total",
                                  "Prompt tokens that were found in the prefix cache.");
  preemptions_ = &set_.AddCounter("vllm:num_preemptions_total", "Requests that were preempted.");
  plan_tokens_ =
      &set_.AddHistogram("vllm:iteration_tokens_total", "Tokens of a plan.", kPlanTokens, kOne);
  plan_rows_ = &set_.AddHistogram("penstock_plan_rows", "Sequences of a plan.", kPlanRows, kOne);
  plans_ = &set_.AddCounter("penstock_plans_total", "Plans that were sent to the stages.");
  plans_in_flight_ =
      &set_.AddGauge("penstock_plans_in_flight", "Plans that were sent and not answered yet.");
  waiting_tokens_ = &set_.AddGauge(
      "penstock_waiting_tokens", "Tokens, prompt and answer, that the waiting requests may need.");
  const std::string blocks =
      "KV blocks by what they are: a request's, of use to later prompts, free.";
  blocks_owned_ = &set_.AddGauge("penstock_kv_blocks", blocks, {{"state", "owned"}});
  blocks_cached_ = &set_.AddGauge("penstock_kv_blocks", blocks, {{"state", "cached"}});
  blocks_free_ = &set_.AddGauge("penstock_kv_blocks", blocks, {{"state", "free"}});
  epoch_ = &set_.AddGauge("penstock_epoch", "The pipeline's epoch: one more after each recovery.");
  for (size_t i = 0; i < kStates; ++i) {
    states_[i] = &set_.AddGauge("penstock_pipeline_state", "1 for the state that the server is in.",
                                {{"state", kStateNames[i]}});
  }
  recoveries_ = &set_.AddHistogram("penstock_recovery_seconds",
                                   "From the loss of a stage until the pipeline answers again.",
                                   kRecovery, kNs);
}

void Metrics::AddRequests() {
  prompt_tokens_ = &set_.AddCounter("vllm:prompt_tokens_total",
                                    "Prompt tokens of the requests that have ended.");
  generation_tokens_ =
      &set_.AddCounter("vllm:generation_tokens_total", "Tokens that were generated.");
  for (size_t i = 0; i < kReasons; ++i) {
    ended_by_reason_[i] =
        &set_.AddCounter("vllm:request_success_total", "Requests by how they ended.", kOne,
                         {{"finished_reason", kReasonNames[i]}});
  }
  for (size_t i = 0; i < kCodes; ++i) {
    const std::string code = absl::StatusCodeToString(static_cast<absl::StatusCode>(i));
    ended_by_code_[i] =
        &set_.AddCounter("penstock_requests_ended_total",
                         "Requests by the status that they ended with.", kOne, {{"code", code}});
    refused_[i] =
        &set_.AddCounter("penstock_requests_refused_total",
                         "Requests that were not taken in, by why.", kOne, {{"code", code}});
  }
  carried_over_ = &set_.AddCounter("penstock_requests_carried_over_total",
                                   "Requests that went on in a new epoch after a stage was lost.");
  const auto time = [this](const char* name, const char* help, const std::vector<double>& bounds) {
    return &set_.AddHistogram(name, help, bounds, kNs);
  };
  first_token_ =
      time("vllm:time_to_first_token_seconds", "From arrival to the first token.", kFirstToken);
  token_gap_ =
      time("vllm:inter_token_latency_seconds", "Between two tokens of one request.", kPerToken);
  time_per_token_ = time("vllm:request_time_per_output_token_seconds",
                         "A request's mean time between its tokens.", kPerToken);
  whole_ = time("vllm:e2e_request_latency_seconds", "From arrival to the end.", kRequest);
  queued_ = time("vllm:request_queue_time_seconds", "From arrival to the first row.", kRequest);
  running_ =
      time("vllm:request_inference_time_seconds", "From the first row to the end.", kRequest);
  prefill_ =
      time("vllm:request_prefill_time_seconds", "From the first row to the first token.", kRequest);
  decode_ = time("vllm:request_decode_time_seconds", "From the first token to the end.", kRequest);
  const auto size = [this](const char* name, const char* help) {
    return &set_.AddHistogram(name, help, kSizes, kOne);
  };
  request_prompt_ = size("vllm:request_prompt_tokens", "Prompt tokens of a request.");
  request_generated_ = size("vllm:request_generation_tokens", "Tokens generated for a request.");
  request_max_tokens_ = size("vllm:request_params_max_tokens", "max_tokens of a request.");
  request_computed_ = size("vllm:request_prefill_kv_computed_tokens",
                           "Prompt tokens of a request that were not found in the prefix cache.");
}

void Metrics::AddStage(int32_t index) {
  const MetricSet::Labels labels = {{"stage", std::to_string(index)}};
  Stage& stage = stages_[static_cast<size_t>(index)];
  const auto gauge = [&](const char* name, const char* help) {
    return &set_.AddGauge(name, help, labels);
  };
  const auto counter = [&](const char* name, const char* help, MetricUnit unit = kOne) {
    return &set_.AddCounter(name, help, unit, labels);
  };
  const auto time = [&](const char* name, const char* help) {
    return &set_.AddHistogram(name, help, kStep, kNs, labels);
  };
  stage.up = gauge("penstock_stage_up", "1: the stage answers; 0: it loads or is lost.");
  stage.epoch = gauge("penstock_stage_epoch", "The epoch of the stage's last sign.");
  stage.losses = counter("penstock_stage_losses_total", "How often the stage died or hung.");
  stage.plans = counter("penstock_stage_plans_total", "Plans that the stage has answered.");
  stage.rows = counter("penstock_stage_rows_total", "Rows (sequences) of these plans.");
  stage.tokens = counter("penstock_stage_tokens_total", "Tokens of these plans.");
  stage.prefill_tokens =
      counter("penstock_stage_prefill_tokens_total", "Those of them that were prompts'.");
  stage.compute = time("penstock_stage_compute_seconds", "A plan's computing on the stage.");
  stage.wait_plan =
      time("penstock_stage_wait_plan_seconds", "From the plan before until this one was there.");
  stage.wait_input = time("penstock_stage_wait_input_seconds",
                          "Then until the plan's activations or sampled tokens were there.");
  stage.send = time("penstock_stage_send_seconds", "Handing a plan's output to the next stage.");
  stage.turnaround =
      time("penstock_stage_turnaround_seconds", "From sending a plan to the stage's answer.");
  stage.queued = gauge("penstock_stage_queued_plans", "Plans that wait on the stage.");
  stage.resident = gauge("penstock_stage_resident_memory_bytes", "Resident memory of the process.");
  stage.cpu = counter("penstock_stage_cpu_seconds_total", "Processor time of the process.", kNs);
  stage.voids = counter("penstock_stage_void_rows_total", "Rows that came to nothing.");
  stage.device_used = gauge("penstock_stage_device_memory_used_bytes",
                            "In use of the stage's pools of GPU memory; 0 on the CPU.");
  stage.device_cached = gauge("penstock_stage_device_memory_cached_bytes",
                              "Free in these pools, kept for the next that asks.");
  stage.device_allocations =
      counter("penstock_stage_device_allocations_total",
              "Blocks that the pools took from the GPU; constant once the stage is ready.");
}

}  // namespace penstock
