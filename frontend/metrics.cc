#include "frontend/metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "core/base/kv_block.h"

namespace penstock {
namespace {

void Observe(MetricHistogram* histogram, absl::Duration time) {
  histogram->Observe(absl::ToInt64Nanoseconds(time));
}

// What every exporter tells of its process, under the names that all use.
std::string ProcessText() {
  MetricSet set;
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto microseconds = [](const timeval& time) {
    return time.tv_sec * 1'000'000 + time.tv_usec;
  };
  set.AddCounter("process_cpu_seconds_total", "Processor time of the front end, user and system.",
                 MetricUnit::kNanoseconds)
      .Set((microseconds(usage.ru_utime) + microseconds(usage.ru_stime)) * 1000);
  int64_t pages = 0;
  int64_t resident_pages = 0;
  if (std::ifstream("/proc/self/statm") >> pages >> resident_pages) {
    set.AddGauge("process_resident_memory_bytes", "Resident memory of the front end.")
        .Set(static_cast<double>(resident_pages * sysconf(_SC_PAGESIZE)));
  }
  return set.Text({});
}

}  // namespace

Metrics::Stage* Metrics::Find(int32_t index) {
  return index >= 0 && index < num_stages() ? &stages_[static_cast<size_t>(index)] : nullptr;
}

void Metrics::SetModel(const std::string& name, int64_t num_blocks) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    model_ = name;
  }
  for (const Stage& stage : stages_) stage.up->Set(1);
  set_.AddGauge("vllm:cache_config_info", "The KV cache's layout, as labels.",
                {{"block_size", std::to_string(kBlockSize)},
                 {"num_gpu_blocks", std::to_string(num_blocks)}})
      .Set(1);
}

void Metrics::SetReady() { ready_ = true; }
void Metrics::SetDraining() { draining_ = true; }

PipelineState Metrics::state() const {
  if (draining_) return PipelineState::kDraining;
  return ready_ ? engine_state_.load() : PipelineState::kLoading;
}

std::string Metrics::last_loss() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return last_loss_;
}

EngineGauges Metrics::gauges() const {
  const auto value = [](const MetricGauge* gauge) { return static_cast<int64_t>(gauge->value()); };
  EngineGauges gauges;
  gauges.state = state();
  gauges.running = value(running_now_);
  gauges.waiting = value(waiting_now_);
  gauges.waiting_tokens = value(waiting_tokens_);
  gauges.blocks_used = value(blocks_owned_);
  gauges.blocks_cached = value(blocks_cached_);
  gauges.blocks_total = gauges.blocks_used + gauges.blocks_cached + value(blocks_free_);
  gauges.plans_in_flight = value(plans_in_flight_);
  gauges.epoch = static_cast<uint32_t>(value(epoch_));
  return gauges;
}

StageNumbers Metrics::stage(int32_t index) const {
  const Stage& stage = stages_.at(static_cast<size_t>(index));
  return {stage.up->value() != 0,
          static_cast<uint32_t>(stage.epoch->value()),
          stage.plans->value(),
          stage.tokens->value(),
          stage.losses->value(),
          stage.compute->Take().sum,
          stage.wait_input->Take().sum,
          stage.wait_plan->Take().sum,
          stage.send->Take().sum,
          static_cast<int64_t>(stage.resident->value()),
          stage.cpu->value()};
}

std::string Metrics::Text() const {
  for (size_t i = 0; i < kStates; ++i) states_[i]->Set(i == static_cast<size_t>(state()) ? 1 : 0);
  std::string model;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    model = model_;
  }
  return set_.Text({{"model_name", model}, {"engine", "0"}}) + ProcessText();
}

void Metrics::OnRequest(const RequestRecord& request) {
  ended_by_reason_[static_cast<size_t>(request.reason)]->Add(1);
  const auto code = static_cast<size_t>(request.code);
  ended_by_code_[code < kCodes ? code : static_cast<size_t>(absl::StatusCode::kUnknown)]->Add(1);
  prompt_tokens_->Add(request.prompt_tokens);
  if (request.recoveries > 0) carried_over_->Add(1);
  request_prompt_->Observe(request.prompt_tokens);
  request_generated_->Observe(request.generated_tokens);
  request_max_tokens_->Observe(request.max_tokens);
  request_computed_->Observe(request.prompt_tokens - request.cached_tokens);
  Observe(whole_, request.finished - request.arrived);
  if (request.started == absl::InfiniteFuture()) {
    Observe(queued_, request.finished - request.arrived);
    return;
  }
  Observe(queued_, request.started - request.arrived);
  Observe(running_, request.finished - request.started);
  if (request.first_token == absl::InfiniteFuture()) return;
  Observe(prefill_, request.first_token - request.started);
  const absl::Duration decode = request.finished - request.first_token;
  Observe(decode_, decode);
  if (request.generated_tokens > 1) {
    Observe(time_per_token_, decode / (request.generated_tokens - 1));
  }
}

void Metrics::OnRefused(absl::StatusCode code) {
  const auto index = static_cast<size_t>(code);
  refused_[index < kCodes ? index : static_cast<size_t>(absl::StatusCode::kUnknown)]->Add(1);
}

void Metrics::OnTokenGap(absl::Duration gap) {
  generation_tokens_->Add(1);
  Observe(token_gap_, gap);
}

void Metrics::OnFirstToken(absl::Duration since_arrival) {
  generation_tokens_->Add(1);
  Observe(first_token_, since_arrival);
}

void Metrics::OnPlan(uint64_t /*plan*/, int64_t rows, int64_t tokens) {
  plans_->Add(1);
  plan_rows_->Observe(rows);
  plan_tokens_->Observe(tokens);
}

void Metrics::OnStage(const StageRecord& record) {
  Stage* const stage = Find(record.stage);
  if (stage == nullptr) return;
  stage->up->Set(1);
  stage->epoch->Set(record.epoch);
  stage->plans->Add(1);
  stage->rows->Add(record.rows);
  stage->tokens->Add(record.tokens);
  stage->prefill_tokens->Add(record.prefill_tokens);
  stage->compute->Observe(record.times.compute_ns);
  stage->wait_plan->Observe(record.times.wait_plan_ns);
  stage->wait_input->Observe(record.times.wait_input_ns);
  stage->send->Observe(record.times.send_ns);
  Observe(stage->turnaround, record.received - record.submitted);
}

void Metrics::OnBeat(int32_t index, const StageBeat& beat) {
  Stage* const stage = Find(index);
  if (stage == nullptr) return;
  stage->up->Set(1);
  stage->epoch->Set(beat.epoch);
  stage->queued->Set(static_cast<double>(beat.queued));
  stage->resident->Set(static_cast<double>(beat.resident_bytes));
  stage->cpu->Set(beat.cpu_ns);
  stage->voids->Set(beat.voids);
  stage->device_used->Set(static_cast<double>(beat.device_memory.used_bytes));
  stage->device_cached->Set(static_cast<double>(beat.device_memory.cached_bytes));
  stage->device_allocations->Set(beat.device_memory.allocations);
}

void Metrics::OnPreemption(RequestId /*id*/) { preemptions_->Add(1); }

void Metrics::OnPrefixLookup(int64_t tokens, int64_t hits) {
  prefix_queries_->Add(tokens);
  prefix_hits_->Add(hits);
}

void Metrics::OnStageLost(int32_t index, const absl::Status& status) {
  if (Stage* const stage = Find(index); stage != nullptr) {
    stage->up->Set(0);
    stage->losses->Add(1);
  }
  std::lock_guard<std::mutex> lock(mutex_);
  last_loss_ = absl::StrCat("stage ", index, ": ", status.message());
}

void Metrics::OnRecovered(absl::Duration time) {
  for (const Stage& stage : stages_) stage.up->Set(1);
  Observe(recoveries_, time);
}

void Metrics::OnGauges(const EngineGauges& gauges) {
  engine_state_ = gauges.state;
  running_now_->Set(static_cast<double>(gauges.running));
  waiting_now_->Set(static_cast<double>(gauges.waiting));
  waiting_tokens_->Set(static_cast<double>(gauges.waiting_tokens));
  blocks_owned_->Set(static_cast<double>(gauges.blocks_used));
  blocks_cached_->Set(static_cast<double>(gauges.blocks_cached));
  blocks_free_->Set(
      static_cast<double>(gauges.blocks_total - gauges.blocks_used - gauges.blocks_cached));
  kv_usage_->Set(static_cast<double>(gauges.blocks_used) /
                 static_cast<double>(std::max<int64_t>(gauges.blocks_total, 1)));
  plans_in_flight_->Set(static_cast<double>(gauges.plans_in_flight));
  epoch_->Set(gauges.epoch);
}

}  // namespace penstock
