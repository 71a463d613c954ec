#include "frontend/request_queue.h"

#include <utility>

#include "core/base/check.h"

namespace penstock {

RequestQueue::RequestQueue(const Limits& limits, std::shared_ptr<Wakeup> wakeup)
    : limits_(limits), wakeup_(std::move(wakeup)) {}

absl::StatusOr<RequestId> RequestQueue::Push(GenerationRequest request,
                                             std::shared_ptr<TokenSink> sink) {
  const int64_t tokens = static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
  if (tokens > limits_.max_tokens) {
    return absl::OutOfRangeError(
        absl::StrCat("the request needs ", tokens, " tokens (prompt and max_tokens) and the queue ",
                     "takes ", limits_.max_tokens,
                     ": ask for fewer tokens, or start the server with a larger "
                     "--max-queued-tokens"));
  }
  RequestId id = 0;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!closed_.ok()) return closed_;
    const int64_t waiting = backlog_requests_ + static_cast<int64_t>(batch_.arrivals.size());
    if (waiting >= limits_.max_requests) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", waiting, " requests wait and --max-queued-requests ",
                       "is ", limits_.max_requests, ": try again later"));
    }
    const int64_t waiting_tokens = backlog_tokens_ + batch_tokens_;
    if (tokens > limits_.max_tokens - waiting_tokens) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the queue is full: the waiting requests need ", waiting_tokens, " tokens, this one ",
          tokens, " and --max-queued-tokens is ", limits_.max_tokens, ": try again later"));
    }
    id = ++last_id_;
    Arrival& arrival = batch_.arrivals.emplace_back();
    arrival.id = id;
    arrival.request = std::move(request);
    arrival.sink = std::move(sink);
    batch_tokens_ += tokens;
  }
  wakeup_->Notify();
  return id;
}

void RequestQueue::Abort(RequestId id) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    batch_.aborts.push_back(id);
  }
  wakeup_->Notify();
}

void RequestQueue::Close(const absl::Status& reason) {
  PENSTOCK_CHECK(!reason.ok());
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_.ok()) closed_ = reason;
}

RequestQueue::Batch RequestQueue::Take() {
  std::lock_guard<std::mutex> lock(mutex_);
  backlog_requests_ += static_cast<int64_t>(batch_.arrivals.size());
  backlog_tokens_ += batch_tokens_;
  batch_tokens_ = 0;
  return std::exchange(batch_, Batch());
}

void RequestQueue::SetBacklog(int64_t requests, int64_t tokens) {
  std::lock_guard<std::mutex> lock(mutex_);
  backlog_requests_ = requests;
  backlog_tokens_ = tokens;
}

int64_t RequestQueue::num_waiting() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return backlog_requests_ + static_cast<int64_t>(batch_.arrivals.size());
}

}  // namespace penstock
