// The helper's side of ProcessSpawner, and the messages between the two: one packet each on a
// SOCK_SEQPACKET pair, whose close is the other side's end.
#pragma once

#include <cstdint>
#include <string>

namespace penstock {

struct SpawnMessage {
  enum class Kind : int32_t {
    kStart,    // to the helper; behind it the command's words, each with its 0
    kSignal,   // to the helper: send `value` to the child
    kStarted,  // from it: `value` is the pid
    kFailed,   // could not be started: errno
    kEnded,    // `value` is what waitpid says
  };
  Kind kind = Kind::kStart;
  int32_t value = 0;
  uint64_t id = 0;  // of the child
};

inline constexpr int64_t kMaxSpawnBytes = 64 << 10;

// Serves the socket until its other end closes, then ends all children, removes the folder with the
// sockets in it, and ends the process. REQUIRES: forked, one thread.
[[noreturn]] void RunSpawnHelper(int socket, const std::string& folder);

}  // namespace penstock
