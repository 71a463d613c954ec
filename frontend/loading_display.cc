#include "frontend/loading_display.h"

#include <unistd.h>

#include <cstdio>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace penstock {
namespace {

// Loading that is over before is shown to nobody.
constexpr absl::Duration kBarAfter = absl::Milliseconds(500);
constexpr absl::Duration kLinesAfter = absl::Seconds(2);
constexpr int64_t kBarWidth = 30;
constexpr const char* kEraseLine = "\r\x1b[K";

void Print(const std::string& text) {
  if (text.empty()) return;
  fwrite(text.data(), 1, text.size(), stderr);
  fflush(stderr);
}

}  // namespace

std::string LoadingDisplay::Update(const LoadProgress& progress, absl::Duration elapsed) {
  if (progress.total <= 0 || elapsed < (is_terminal_ ? kBarAfter : kLinesAfter)) return "";
  const double share = static_cast<double>(progress.done) / static_cast<double>(progress.total);
  const std::string text =
      absl::StrFormat("%d %% of %.0f million weights", static_cast<int>(share * 100),
                      static_cast<double>(progress.total) * 1e-6);
  std::lock_guard<std::mutex> lock(mutex_);
  if (is_terminal_) {
    shown_ = true;
    const auto full = static_cast<size_t>(share * kBarWidth);
    return absl::StrCat(kEraseLine, "loading [", std::string(full, '#'),
                        std::string(kBarWidth - full, ' '), "] ", text);
  }
  const auto tenths = static_cast<int64_t>(share * 10);
  if (tenths <= told_) return "";
  told_ = tenths;
  return absl::StrCat("loading: ", text, "\n");
}

std::string LoadingDisplay::Finish() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!shown_) return "";
  shown_ = false;
  return kEraseLine;
}

LoadingDisplayOnStderr::LoadingDisplayOnStderr()
    : start_(absl::Now()), display_(isatty(STDERR_FILENO) == 1) {}

LoadingDisplayOnStderr::~LoadingDisplayOnStderr() { Print(display_.Finish()); }

void LoadingDisplayOnStderr::Update(const LoadProgress& progress) {
  Print(display_.Update(progress, absl::Now() - start_));
}

}  // namespace penstock
