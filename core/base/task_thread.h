// TaskThread: one thread that runs what others give it, in the order in which it came. Tasks that
// have not begun when it is destroyed are dropped.
// Thread rule: Enqueue from any thread, its own included.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace penstock {

class TaskThread {
 public:
  TaskThread();
  ~TaskThread();  // waits for the task that runs
  TaskThread(const TaskThread&) = delete;
  TaskThread& operator=(const TaskThread&) = delete;

  void Enqueue(std::function<void()> task);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  bool stop_ = false;                        // guarded by mutex_

  std::thread thread_;
};

}  // namespace penstock
