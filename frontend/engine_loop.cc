#include "frontend/engine_loop.h"

#include <algorithm>
#include <string>
#include <utility>

namespace penstock {

EngineLoop::EngineLoop(EngineOptions options, PipelineCost cost, PipelineCoordinator& coordinator,
                       EngineObserver* observer)
    : options_(std::move(options)),
      coordinator_(coordinator),
      wakeup_(coordinator.wakeup()),
      observer_(observer),
      queue_({options_.max_queued_requests, options_.max_queued_tokens}, wakeup_),
      engine_(options_, std::move(cost), coordinator, observer) {
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
  absl::StatusOr<RequestId> id = TakeIn(std::move(request), std::move(sinks));
  if (!id.ok() && observer_ != nullptr) observer_->OnRefused(id.status().code());
  return id;
}

absl::StatusOr<RequestId> EngineLoop::TakeIn(GenerationRequest request,
                                             std::vector<std::shared_ptr<TokenSink>> sinks) {
  const int64_t num_blocks = coordinator_.info().num_blocks;
  const int64_t tokens = static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
  if (BlocksFor(tokens - 1) > num_blocks) {
    return absl::OutOfRangeError(absl::StrCat(
        "the request needs room for ", tokens - 1, " tokens (prompt and max_tokens) and the ",
        "server's KV memory holds ", num_blocks * kBlockSize, ": ask for fewer tokens"));
  }
  // From the caller's clock to the engine's.
  request.deadline += options_.now() - options_.wall();
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

bool EngineLoop::ready() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return control_.ready;
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
    if (draining) engine_.SetDraining();
    const absl::Time now = options_.now();
    engine_.Turn(now, queue_.Take());
    CloseIfGivenUp();
    if (draining && now >= drain_until) {
      engine_.FinishAll(
          absl::UnavailableError("the server shut down before the answer was complete"));
    }
    const bool drained = draining && engine_.empty();
    Publish(drained);

    absl::Time next = engine_.NextTime();
    if (draining && !drained) next = std::min(next, drain_until);
    wakeup_->Wait(next - now);
  }
  // The queue was closed before `stop` was set, so these are the last ones.
  engine_.Turn(options_.now(), queue_.Take());
  engine_.FinishAll(absl::UnavailableError("the server stopped before the answer was complete"));
  Publish(true);
}

// In every turn: what slipped in before the queue was closed arrives in a later one.
void EngineLoop::CloseIfGivenUp() {
  if (engine_.alive()) return;
  queue_.Close(
      absl::UnavailableError(absl::StrCat("the server lost the stages that run the model (",
                                          coordinator_.status().message(), "): try another one")));
}

void EngineLoop::Publish(bool drained) {
  const Scheduler& scheduler = engine_.scheduler();
  queue_.SetBacklog(scheduler.num_waiting(), scheduler.waiting_tokens());
  std::lock_guard<std::mutex> lock(mutex_);
  control_.stats = engine_.stats();
  control_.healthy = engine_.alive();
  control_.ready = engine_.ready();
  if (drained) {
    control_.drained = true;
    drained_.notify_all();
  }
}

}  // namespace penstock
