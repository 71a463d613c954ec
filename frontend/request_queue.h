// RequestQueue: the bounded door of the engine. It counts a request, and the tokens it may need
// (prompt + max_tokens), from its arrival until it runs or ends, and refuses what would pass the
// limits. Aborts take the same way in.
// Thread rule: any thread may call Push, Abort, Close and num_waiting; Take and SetBacklog belong
// to the engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "frontend/engine_types.h"
#include "frontend/wakeup.h"

namespace penstock {

class RequestQueue {
 public:
  struct Limits {
    int64_t max_requests = 256;      // --max-queued-requests
    int64_t max_tokens = 1ll << 20;  // --max-queued-tokens
  };
  struct Arrival {
    RequestId id = 0;
    GenerationRequest request;
    std::shared_ptr<TokenSink> sink;
  };
  // What came in since the last Take. An abort's request arrived in this batch or earlier.
  struct Batch {
    std::vector<Arrival> arrivals;
    std::vector<RequestId> aborts;
  };

  // `wakeup` is notified of every arrival and abort.
  RequestQueue(const Limits& limits, std::shared_ptr<Wakeup> wakeup);

  // Takes the request in once a sink, all or none, with sampling.choice 0, 1, ...; returns the id
  // of the first, which the others follow. Ids count up from 1. REQUIRES: a sink.
  // Errors: RESOURCE_EXHAUSTED if the queue is full (worth another try), OUT_OF_RANGE if the
  // request alone is larger than the queue, UNAVAILABLE or what Close was given once closed. No
  // sink is called then.
  absl::StatusOr<RequestId> Push(GenerationRequest request,
                                 std::vector<std::shared_ptr<TokenSink>> sinks);

  // Passes the wish on; the engine ignores ids that have ended or never were.
  void Abort(RequestId id);

  // Every later Push is refused with `reason`; the first reason stays. REQUIRES: not OK.
  void Close(const absl::Status& reason);

  // Takes all out. What is taken still counts against the limits until SetBacklog says otherwise.
  Batch Take();

  // What the engine holds that was taken but does not run yet.
  void SetBacklog(int64_t requests, int64_t tokens);

  // Requests that have arrived and do not run yet.
  int64_t num_waiting() const;

 private:
  const Limits limits_;
  const std::shared_ptr<Wakeup> wakeup_;

  mutable std::mutex mutex_;
  // All below is guarded by mutex_.
  Batch batch_;
  int64_t batch_tokens_ = 0;  // prompt + max_tokens over batch_.arrivals
  int64_t backlog_requests_ = 0;
  int64_t backlog_tokens_ = 0;
  RequestId last_id_ = 0;
  absl::Status closed_;  // OK: open
};

}  // namespace penstock
