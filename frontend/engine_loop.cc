#include "frontend/engine_loop.h"

#include <algorithm>
#include <optional>
#include <string>

#include "core/base/check.h"
#include "core/base/log.h"

namespace penstock {
namespace {

SchedulerOptions MakeSchedulerOptions(const EngineOptions& options, int64_t num_blocks) {
  PENSTOCK_CHECK(Validate(options).ok());
  SchedulerOptions result;
  result.num_blocks = num_blocks;
  result.max_sequences = options.max_sequences;
  result.max_step_tokens = options.max_step_tokens;
  result.plans_ahead = 1;  // one stage gains nothing from a plan that waits behind another
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
  return absl::OkStatus();
}

EngineLoop::EngineLoop(EngineOptions options, const StageInfo& info,
                       PipelineCoordinator& coordinator)
    : options_(std::move(options)),
      num_blocks_(info.num_blocks),
      wakeup_(std::make_shared<Wakeup>()),
      coordinator_(coordinator),
      queue_({options_.max_queued_requests, options_.max_queued_tokens}, wakeup_),
      scheduler_(MakeSchedulerOptions(options_, info.num_blocks),
                 PipelineCost({StageCost({}, {})})) {
  coordinator_.SetWakeup(wakeup_);
  Publish(false);
  thread_ = std::thread([this] { Run(); });
}

EngineLoop::~EngineLoop() { Stop(); }

absl::StatusOr<RequestId> EngineLoop::Submit(GenerationRequest request,
                                             std::shared_ptr<TokenSink> sink) {
  std::vector<std::shared_ptr<TokenSink>> sinks;
  sinks.push_back(std::move(sink));
  return SubmitChoices(std::move(request), std::move(sinks));
}

absl::StatusOr<RequestId> EngineLoop::SubmitChoices(GenerationRequest request,
                                                    std::vector<std::shared_ptr<TokenSink>> sinks) {
  const int64_t tokens = static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
  if (BlocksFor(tokens - 1) > num_blocks_) {
    return absl::OutOfRangeError(absl::StrCat(
        "the request needs room for ", tokens - 1, " tokens (prompt and max_tokens) and the ",
        "server's KV memory holds ", num_blocks_ * kBlockSize, ": ask for fewer tokens"));
  }
  return queue_.Push(std::move(request), std::move(sinks));
}

void EngineLoop::Abort(RequestId id) { queue_.Abort(id); }

void EngineLoop::Drain(absl::Duration timeout) {
  queue_.Close(absl::UnavailableError("the server is shutting down: try another one"));
  const absl::Time until = options_.now() + timeout;
  std::unique_lock<std::mutex> lock(mutex_);
  if (!control_.stop) {
    control_.draining = true;
    control_.drain_until = std::min(control_.drain_until, until);
  }
  wakeup_->Notify();
  drained_.wait(lock, [this] { return control_.drained; });
}

void EngineLoop::Stop() {
  queue_.Close(absl::UnavailableError("the server has stopped"));
  {
    std::lock_guard<std::mutex> lock(mutex_);
    control_.stop = true;
  }
  wakeup_->Notify();
  std::lock_guard<std::mutex> lock(stop_mutex_);
  if (thread_.joinable()) thread_.join();
}

bool EngineLoop::healthy() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return control_.healthy;
}

EngineStats EngineLoop::stats() const {
  EngineStats stats;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stats = control_.stats;
  }
  stats.waiting = queue_.num_waiting();
  return stats;
}

void EngineLoop::Run() {
  while (true) {
    bool draining = false;
    absl::Time drain_until;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (control_.stop) break;
      draining = control_.draining;
      drain_until = control_.drain_until;
    }
    // Results first: a token that is here before its request's deadline or abort is delivered.
    TakeResults();
    TakeArrivals();
    const absl::Time now = options_.now();
    ExpireDeadlines(now);
    EndIfStageLost();
    const bool out_of_time = draining && now >= drain_until;
    if (out_of_time) {
      FinishAll(absl::UnavailableError("the server shut down before the answer was complete"));
    }
    SubmitPlan();
    const bool drained =
        draining && live_.empty() && (out_of_time || coordinator_.num_in_flight() == 0);
    Publish(drained);

    absl::Time next = draining && !drained ? drain_until : absl::InfiniteFuture();
    if (!deadlines_.empty()) next = std::min(next, deadlines_.begin()->first);
    wakeup_->Wait(next - now);
  }
  // The queue was closed before `stop` was set, so these are the last ones.
  TakeArrivals();
  FinishAll(absl::UnavailableError("the server stopped before the answer was complete"));
  Publish(true);
}

void EngineLoop::TakeArrivals() {
  RequestQueue::Batch batch = queue_.Take();
  for (RequestQueue::Arrival& arrival : batch.arrivals) {
    GenerationRequest& request = arrival.request;
    Live& live = live_[arrival.id];
    live.sink = std::move(arrival.sink);
    live.deadline = request.deadline;
    live.prompt_tokens = static_cast<int64_t>(request.prompt.size());
    if (request.deadline != absl::InfiniteFuture()) {
      deadlines_.emplace(request.deadline, arrival.id);
    }
    scheduler_.Add(arrival.id,
                   {std::move(request.prompt), request.max_tokens, std::move(request.sampling)});
  }
  for (RequestId id : batch.aborts) {
    Finish(id, FinishReason::kAbort, absl::CancelledError("the request was cancelled"));
  }
}

void EngineLoop::TakeResults() {
  while (std::optional<PipelineCoordinator::Outcome> outcome = coordinator_.Take()) {
    if (!outcome->result.ok()) {
      const size_t hit = scheduler_.BeginEpoch().size();
      LogError(absl::StrCat("plan ", outcome->number, " with ", hit,
                            " sequences failed: ", outcome->result.status().message()));
      continue;  // EndIfStageLost tells them, and all others
    }
    const std::vector<SequenceProgress> progress = scheduler_.Commit(*std::move(outcome->result));
    ++stats_.steps;
    for (const SequenceProgress& step : progress) Deliver(step);
  }
}

void EngineLoop::Deliver(const SequenceProgress& progress) {
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
  stats_.prompt_tokens += std::exchange(live.prompt_tokens, 0);
  ++stats_.generated_tokens;
  const GeneratedToken token{progress.token->token, progress.token->logprob, progress.token->top};
  live.sink->OnTokens({&token, 1});
  if (progress.end == SequenceEnd::kStop) {
    Finish(progress.id, FinishReason::kStop, absl::OkStatus());
  } else if (progress.end == SequenceEnd::kLength) {
    Finish(progress.id, FinishReason::kLength, absl::OkStatus());
  }
}

void EngineLoop::ExpireDeadlines(absl::Time now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    Finish(deadlines_.begin()->second, FinishReason::kError,
           absl::DeadlineExceededError("the request's time limit (the client's deadline or the "
                                       "server's) passed before its answer was complete: allow "
                                       "more time or ask for fewer tokens"));
  }
}

// In every turn: what slipped in before the queue was closed arrives in a later one.
void EngineLoop::EndIfStageLost() {
  const absl::Status& lost = coordinator_.status();
  if (lost.ok()) return;
  queue_.Close(absl::UnavailableError(absl::StrCat(
      "the server lost the stage that runs the model (", lost.message(), "): try another one")));
  const absl::StatusCode code = lost.code() == absl::StatusCode::kUnavailable
                                    ? absl::StatusCode::kUnavailable
                                    : absl::StatusCode::kInternal;
  FinishAll({code, absl::StrCat("the stage that runs the model failed: ", lost.message())});
}

void EngineLoop::SubmitPlan() {
  if (!coordinator_.status().ok() || coordinator_.num_in_flight() > 0) return;
  if (std::optional<StepPlan> plan = scheduler_.Schedule()) coordinator_.Submit(std::move(*plan));
}

void EngineLoop::Finish(RequestId id, FinishReason reason, const absl::Status& status) {
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  const Live live = std::move(found->second);
  live_.erase(found);
  deadlines_.erase({live.deadline, id});
  scheduler_.Abort(id);  // of no effect where the scheduler ended it
  live.sink->OnFinish(reason, status);
}

void EngineLoop::FinishAll(const absl::Status& status) {
  while (!live_.empty()) Finish(live_.begin()->first, FinishReason::kError, status);
}

void EngineLoop::Publish(bool drained) {
  queue_.SetBacklog(scheduler_.num_waiting(), scheduler_.waiting_tokens());
  stats_.running = scheduler_.num_running();
  stats_.blocks_free = scheduler_.blocks().num_free() + scheduler_.blocks().num_cached();
  stats_.blocks_total = num_blocks_;
  std::lock_guard<std::mutex> lock(mutex_);
  control_.stats = stats_;
  control_.healthy = coordinator_.status().ok();
  if (drained) {
    control_.drained = true;
    drained_.notify_all();
  }
}

}  // namespace penstock
