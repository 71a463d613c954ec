#include "frontend/engine.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>

#include "core/base/check.h"
#include "core/base/log.h"

namespace penstock {
namespace {

constexpr RequestId kProbe = 0;  // requests count from 1
constexpr absl::Duration kProbePause = absl::Seconds(1);
constexpr absl::Duration kGaugePeriod = absl::Milliseconds(50);

SchedulerOptions MakeSchedulerOptions(const EngineOptions& options, const StageInfo& info,
                                      int64_t num_stages) {
  PENSTOCK_CHECK(Validate(options).ok());
  SchedulerOptions result;
  result.num_blocks = info.num_blocks;
  result.max_sequences = options.max_sequences;
  result.max_step_tokens = options.max_step_tokens;
  result.plans_ahead = options.plans_ahead;
  result.num_stages = num_stages;
  result.prefix_cache = options.prefix_cache;
  result.cache_key[0] = options.cache_key[0];
  result.cache_key[1] = options.cache_key[1];
  result.cache_salt = info.model_hash;
  result.sliding_window = info.config.sliding_window;
  return result;
}

}  // namespace

absl::Status Validate(const EngineOptions& options) {
  if (options.max_sequences < 1 || options.max_sequences > INT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-sequences is ", options.max_sequences, ": at least 1 is needed"));
  }
  if (options.max_step_tokens < options.max_sequences) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max-step-tokens is ", options.max_step_tokens, ": it must be at least --max-sequences, ",
        options.max_sequences, ", since a step feeds one token of every running sequence"));
  }
  if (options.max_queued_requests < 1 || options.max_queued_tokens < 1) {
    return absl::InvalidArgumentError(
        "--max-queued-requests and --max-queued-tokens must be at least 1: every request passes "
        "through the queue");
  }
  if (options.plans_ahead < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--plans-ahead is ", options.plans_ahead,
                                                   ": at least one plan must be in flight"));
  }
  return absl::OkStatus();
}

absl::Time EngineOptions::SteadyNow() {
  static const absl::Time wall = absl::Now();
  static const std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  return wall + absl::FromChrono(std::chrono::steady_clock::now() - start);
}

Engine::Engine(const EngineOptions& options, PipelineCost cost, PipelineCoordinator& coordinator,
               EngineObserver* observer)
    : options_(options),
      coordinator_(coordinator),
      observer_(observer == nullptr ? none_ : *observer),
      scheduler_(MakeSchedulerOptions(options, coordinator.info(),
                                      static_cast<int64_t>(coordinator.stages().size())),
                 std::move(cost)) {
  stats_.blocks_total = coordinator.info().num_blocks;
}

void Engine::Turn(absl::Time now, RequestQueue::Batch batch) {
  now_ = now;
  coordinator_.Advance(now);
  TakeResults();
  if (const auto end = coordinator_.TakeEpochEnd()) OnEpochEnd(*end);
  for (RequestQueue::Arrival& arrival : batch.arrivals) Add(std::move(arrival));
  for (RequestId id : batch.aborts) {
    Finish(id, FinishReason::kAbort, absl::CancelledError("the request was cancelled"));
  }
  ExpireDeadlines();
  if (alive()) {
    Probe();
    SubmitPlans();
  } else {
    FinishAll(absl::UnavailableError(
        absl::StrCat("the server can run its model no more: ", coordinator_.status().message())));
  }
  TellScheduler();
  TellGauges();
}

absl::Time Engine::NextTime() const {
  absl::Time next = coordinator_.NextTime(now_);
  if (!deadlines_.empty()) next = std::min(next, deadlines_.begin()->first);
  if (coordinator_.state() == PipelineState::kReady && !ready() && probe_at_ > now_) {
    next = std::min(next, probe_at_);
  }
  if (gauges_due_) next = std::min(next, gauges_at_ + kGaugePeriod);
  return next;
}

void Engine::Add(RequestQueue::Arrival arrival) {
  GenerationRequest& request = arrival.request;
  Live& live = live_[arrival.id];
  live.sink = std::move(arrival.sink);
  live.deadline = request.deadline;
  live.tenant = std::move(request.tenant);
  live.record.id = arrival.id;
  live.record.prompt_tokens = static_cast<int64_t>(request.prompt.size());
  live.record.max_tokens = request.max_tokens;
  live.record.arrived = now_;
  if (request.deadline != absl::InfiniteFuture()) {
    deadlines_.emplace(request.deadline, arrival.id);
  }
  SequenceRequest sequence;
  sequence.prompt = std::move(request.prompt);
  sequence.max_tokens = request.max_tokens;
  sequence.sampling = std::move(request.sampling);
  sequence.priority = request.priority;
  sequence.tenant = tenants_.Use(live.tenant);
  scheduler_.Add(arrival.id, std::move(sequence));
}

void Engine::TakeResults() {
  for (const StageRecord& record : coordinator_.TakeRecords()) {
    scheduler_.Observe(record.stage, record.plan, record.times.compute_ns);
    observer_.OnStage(record);
  }
  while (std::optional<StepResult> result = coordinator_.Take()) {
    ++stats_.steps;
    for (const SequenceProgress& step : scheduler_.Commit(*std::move(result))) Deliver(step);
  }
}

void Engine::Deliver(const SequenceProgress& progress) {
  if (progress.token && lost_at_ != absl::InfiniteFuture()) {
    observer_.OnRecovered(now_ - lost_at_);
    LogInfo(absl::StrCat("recovered: the pipeline answers again, ",
                         absl::FormatDuration(now_ - lost_at_), " after the loss"));
    lost_at_ = absl::InfiniteFuture();
  }
  if (progress.id == kProbe) {
    probing_ = progress.end == SequenceEnd::kNone;
    return;
  }
  if (progress.end == SequenceEnd::kFailed) {
    Finish(
        progress.id, FinishReason::kError,
        absl::InternalError("the model computed no numbers for this request (NaN or infinity), or "
                            "no token was left to choose from: other requests go on"));
    return;
  }
  Live& live = live_.at(progress.id);
  if (!progress.prompt_logprobs.empty()) live.sink->OnPrompt(progress.prompt_logprobs);
  if (!progress.token.has_value()) return;
  OnToken(progress.id, live);
  const GeneratedToken token{progress.token->token, progress.token->logprob, progress.token->top};
  live.sink->OnTokens({&token, 1});
  if (progress.end == SequenceEnd::kStop) {
    Finish(progress.id, FinishReason::kStop, absl::OkStatus());
  } else if (progress.end == SequenceEnd::kLength) {
    Finish(progress.id, FinishReason::kLength, absl::OkStatus());
  }
}

void Engine::OnToken(RequestId id, Live& live) {
  ++stats_.generated_tokens;
  if (live.record.generated_tokens++ == 0) {
    stats_.prompt_tokens += live.record.prompt_tokens;
    live.record.first_token = now_;
    observer_.OnFirstToken(now_ - live.record.arrived);
  } else {
    observer_.OnTokenGap(now_ - live.last_token);
  }
  live.last_token = now_;
  // Past everything that was in flight when a stage died: that was not of its doing.
  if (live.deaths > 0 && live.record.generated_tokens > live.stood_at + options_.plans_ahead) {
    live.deaths = 0;
    if (std::exchange(live.suspect, false)) scheduler_.SetSuspect(id, false);
  }
}

void Engine::OnEpochEnd(const PipelineCoordinator::EpochEnd& end) {
  ++stats_.recoveries;
  lost_at_ = std::min(lost_at_, end.at);
  const std::vector<SequenceId> hit = scheduler_.BeginEpoch();
  for (auto& [id, live] : live_) {
    if (live.record.started != absl::InfiniteFuture()) ++live.record.recoveries;
  }
  for (SequenceId id : hit) {
    if (id == kProbe) continue;
    Live& live = live_.at(id);
    if (live.suspect && hit.size() == 1) {
      LogWarning(absl::StrCat("request ", id, " is ended: the pipeline has died of it ",
                              live.deaths, " times, the last time with nothing else in it"));
      Finish(id, FinishReason::kError,
             absl::InternalError("the stages that run the model have died again and again with "
                                 "this request in them, the last time with it alone: it is not "
                                 "tried any more, other requests go on"));
      continue;
    }
    live.stood_at = live.record.generated_tokens;
    if (++live.deaths >= 2 && !std::exchange(live.suspect, true)) scheduler_.SetSuspect(id, true);
  }
}

void Engine::ExpireDeadlines() {
  const bool recovers = coordinator_.state() == PipelineState::kRecovering;
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_) {
    const RequestId id = deadlines_.begin()->second;
    if (recovers) {
      Finish(id, FinishReason::kError,
             absl::UnavailableError("a stage that runs the model was lost, and the request's time "
                                    "limit passed before it was there again: try again"));
    } else {
      Finish(id, FinishReason::kError,
             absl::DeadlineExceededError("the request's time limit (the client's deadline or the "
                                         "server's) passed before its answer was complete: allow "
                                         "more time or ask for fewer tokens"));
    }
  }
}

// Nobody's request is there to show that the pipeline answers again: one token of the engine's own.
void Engine::Probe() {
  if (ready() || probing_ || draining_ || !live_.empty() || now_ < probe_at_) return;
  if (coordinator_.state() != PipelineState::kReady) return;
  probing_ = true;
  probe_at_ = now_ + kProbePause;
  SequenceRequest probe;
  probe.prompt = {0};
  probe.max_tokens = 1;
  probe.sampling.temperature = 0;
  scheduler_.Add(kProbe, std::move(probe));
}

void Engine::SubmitPlans() {
  while (coordinator_.state() == PipelineState::kReady) {
    std::optional<StepPlan> plan = scheduler_.Schedule();
    if (!plan) return;
    observer_.OnPlan(plan->number, static_cast<int64_t>(plan->rows.size()), plan->num_tokens());
    const int64_t predicted_ns = scheduler_.PredictNs(plan->number);
    coordinator_.Submit(*std::move(plan), predicted_ns, now_);
  }
}

// What the scheduler has to tell of starts, preemptions and the prefix cache.
void Engine::TellScheduler() {
  for (const SequenceStart& start : scheduler_.TakeStarted()) {
    const auto found = live_.find(start.id);
    if (found == live_.end()) continue;
    RequestRecord& record = found->second.record;
    if (record.started != absl::InfiniteFuture()) continue;  // it is resumed
    record.started = now_;
    record.cached_tokens = start.cached_tokens;
  }
  for (SequenceId id : scheduler_.TakePreempted()) {
    const auto found = live_.find(id);
    if (found == live_.end()) continue;
    ++found->second.record.preemptions;
    observer_.OnPreemption(id);
  }
  const int64_t lookups = scheduler_.prefix_lookup_tokens() - lookups_;
  const int64_t hits = scheduler_.prefix_hit_tokens() - hits_;
  if (lookups > 0) observer_.OnPrefixLookup(lookups, hits);
  lookups_ += lookups;
  hits_ += hits;
}

void Engine::TellGauges() {
  // One turn's news may have to wait, and is told in the turn that NextTime asks for.
  gauges_due_ = now_ < gauges_at_ + kGaugePeriod;
  if (gauges_due_) return;
  gauges_at_ = now_;
  EngineGauges gauges;
  gauges.state = coordinator_.state();
  if (gauges.state == PipelineState::kReady) {
    if (!ready()) gauges.state = PipelineState::kRecovering;
    if (draining_) gauges.state = PipelineState::kDraining;
  }
  gauges.running = scheduler_.num_running();
  gauges.waiting = scheduler_.num_waiting();
  gauges.waiting_tokens = scheduler_.waiting_tokens();
  gauges.blocks_total = scheduler_.blocks().num_blocks();
  gauges.blocks_cached = scheduler_.blocks().num_cached();
  gauges.blocks_used = scheduler_.blocks().num_owned();
  gauges.plans_in_flight = coordinator_.num_in_flight();
  gauges.epoch = coordinator_.epoch();
  observer_.OnGauges(gauges);
}

EngineStats Engine::stats() const {
  EngineStats stats = stats_;
  stats.running = scheduler_.num_running();
  stats.waiting = scheduler_.num_waiting();
  stats.blocks_free = scheduler_.blocks().num_free() + scheduler_.blocks().num_cached();
  return stats;
}

void Engine::Finish(RequestId id, FinishReason reason, const absl::Status& status) {
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  Live live = std::move(found->second);
  live_.erase(found);
  deadlines_.erase({live.deadline, id});
  scheduler_.Abort(id);  // of no effect where the scheduler ended it
  tenants_.Leave(live.tenant);
  live.record.reason = reason;
  live.record.code = status.code();
  live.record.finished = now_;
  observer_.OnRequest(live.record);
  live.sink->OnFinish(reason, status);
}

void Engine::FinishAll(const absl::Status& status) {
  while (!live_.empty()) Finish(live_.begin()->first, FinishReason::kError, status);
  if (std::exchange(probing_, false)) scheduler_.Abort(kProbe);
}

}  // namespace penstock
