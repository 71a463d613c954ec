#include "frontend/signal_thread.h"

#include <pthread.h>

#include <csignal>
#include <utility>

#include "core/base/check.h"

namespace penstock {
namespace {

sigset_t EndingSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

SignalThread::SignalThread(std::function<void(int count, int signal)> on_signal)
    : on_signal_(std::move(on_signal)) {
  const sigset_t set = EndingSignals();
  PENSTOCK_CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, nullptr), 0);
  thread_ = std::thread([this] {
    const sigset_t set = EndingSignals();
    for (int count = 1;; ++count) {
      int signal = 0;
      PENSTOCK_CHECK_EQ(sigwait(&set, &signal), 0);
      if (stop_) return;
      on_signal_(count, signal);
    }
  });
}

SignalThread::~SignalThread() {
  stop_ = true;
  // To this thread alone, which wakes from sigwait by it.
  pthread_kill(thread_.native_handle(), SIGINT);
  thread_.join();
}

}  // namespace penstock
