// How far loading has come, for people on standard error: a bar on a terminal, a line every tenth
// of the way elsewhere; nothing at all if it is over soon.
// Thread rule: any thread.
#pragma once

#include <mutex>
#include <string>

#include "absl/time/time.h"
#include "core/sched/stage_types.h"

namespace penstock {

class LoadingDisplay {
 public:
  explicit LoadingDisplay(bool is_terminal) : is_terminal_(is_terminal) {}

  // What is to be printed now, `elapsed` after the beginning; may be empty.
  std::string Update(const LoadProgress& progress, absl::Duration elapsed);
  // What takes the bar off the terminal again.
  std::string Finish();

 private:
  const bool is_terminal_;

  std::mutex mutex_;
  bool shown_ = false;  // guarded by mutex_; a bar is on the terminal
  int64_t told_ = 0;    // guarded by mutex_; tenths that lines have told
};

// Over standard error, from its making to its end.
class LoadingDisplayOnStderr {
 public:
  LoadingDisplayOnStderr();
  ~LoadingDisplayOnStderr();
  LoadingDisplayOnStderr(const LoadingDisplayOnStderr&) = delete;
  LoadingDisplayOnStderr& operator=(const LoadingDisplayOnStderr&) = delete;

  void Update(const LoadProgress& progress);

 private:
  const absl::Time start_;
  LoadingDisplay display_;
};

}  // namespace penstock
