// SignalThread: SIGINT and SIGTERM as calls on a thread of its own, where any code may run.
// Thread rule: make it before any other thread, so that all inherit the blocked signals.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace penstock {

class SignalThread {
 public:
  // `on_signal` is called with 1 for the first signal, 2 for the second and so on, and which it is.
  explicit SignalThread(std::function<void(int count, int signal)> on_signal);
  ~SignalThread();  // the signals stay blocked
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  const std::function<void(int count, int signal)> on_signal_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace penstock
