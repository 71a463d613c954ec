#include "frontend/request_queue.h"

#include <optional>
#include <utility>

#include "core/base/check.h"
#include "core/base/checked_size.h"

namespace penstock {

RequestQueue::RequestQueue(const Limits& limits, std::shared_ptr<Wakeup> wakeup)
    : limits_(limits), wakeup_(std::move(wakeup)) {}

absl::StatusOr<RequestId> RequestQueue::Push(GenerationRequest request,
                                             std::vector<std::shared_ptr<TokenSink>> sinks) {
  const auto count = static_cast<int64_t>(sinks.size());
  PENSTOCK_CHECK_GT(count, 0);
  const int64_t each = static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
  const std::optional<int64_t> product = (CheckedSize(count) * CheckedSize(each)).value();
  if (!product.has_value() || *product > limits_.max_tokens) {
    return absl::OutOfRangeError(absl::StrCat(
        "the request needs ", each, " tokens (prompt and max_tokens) for each of ", count,
        " answers and the queue takes ", limits_.max_tokens,
        ": ask for fewer tokens, or start the server with a larger --max-queued-tokens"));
  }
  if (count > limits_.max_requests) {
    return absl::OutOfRangeError(absl::StrCat(
        "the request asks for ", count, " answers and the queue takes ", limits_.max_requests,
        ": ask for fewer, or start the server with a larger --max-queued-requests"));
  }
  const int64_t tokens = *product;
  RequestId first = 0;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!closed_.ok()) return closed_;
    const int64_t waiting = backlog_requests_ + static_cast<int64_t>(batch_.arrivals.size());
    if (count > limits_.max_requests - waiting) {
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
    first = last_id_ + 1;
    const auto add = [&](int64_t choice, GenerationRequest one) {
      Arrival& arrival = batch_.arrivals.emplace_back();
      arrival.id = ++last_id_;
      arrival.request = std::move(one);
      arrival.request.sampling.choice = static_cast<int32_t>(choice);
      // The prompt's are the same for all.
      if (choice > 0) arrival.request.sampling.prompt_logprobs = -1;
      arrival.sink = std::move(sinks[static_cast<size_t>(choice)]);
    };
    for (int64_t choice = 0; choice + 1 < count; ++choice) add(choice, request);
    add(count - 1, std::move(request));
    batch_tokens_ += tokens;
  }
  wakeup_->Notify();
  return first;
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
