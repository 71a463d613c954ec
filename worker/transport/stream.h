// Stream: the order in which a stage works. What is enqueued runs later, one after the other; who
// enqueues never waits. On the CPU it is one thread's queue; on a GPU a CUDA stream will stand for
// it.
//
// A stream can fail: a wait that ran out of time, a peer that died. The failure is its void word:
// it stays until Reset, and everything that has an effect outside of the stream (a send, a sampled
// token, a result) looks at it first and does nothing.
#pragma once

#include <functional>
#include <mutex>

#include "core/base/status.h"
#include "core/base/task_thread.h"

namespace penstock {

class Stream {
 public:
  virtual ~Stream() = default;

  // OK, or why the stream has failed: the first reason. Any thread.
  virtual absl::Status status() const = 0;
  virtual void Fail(const absl::Status& reason) = 0;
  // Waits until all that is enqueued has run (or was skipped). Not from the stream itself.
  virtual void Fence() = 0;
  // Forgets the failure. REQUIRES: fenced.
  virtual void Reset() = 0;
};

class CpuStream final : public Stream {
 public:
  // Runs after what was enqueued before, on the stream's thread; also on a failed stream.
  void Enqueue(std::function<void()> task) { thread_.Enqueue(std::move(task)); }

  absl::Status status() const override;
  void Fail(const absl::Status& reason) override;
  void Fence() override;
  void Reset() override;

 private:
  mutable std::mutex mutex_;
  absl::Status status_;  // guarded by mutex_
  TaskThread thread_;    // last: its tasks use the rest
};

}  // namespace penstock
