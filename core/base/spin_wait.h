// SpinThenWait: how a thread waits for what another is about to do: it looks for a while, then
// sleeps. Any threads; whoever changes the value notifies.
#pragma once

#include <atomic>

namespace penstock {

// About 50 us of looking before a thread sleeps: longer than the gap between two kernels of a step
// or a copy of a part of a weight takes, shorter than anyone notices on an idle machine.
inline constexpr int kSpins = 4000;

// The value, once it is enough.
template <typename T, typename IsEnough>
T SpinThenWait(const std::atomic<T>& value, const IsEnough& is_enough) {
  T now = value.load();
  for (int spin = 0; !is_enough(now); now = value.load()) {
    if (++spin >= kSpins) {
      value.wait(now);
    } else {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }
  return now;
}

}  // namespace penstock
