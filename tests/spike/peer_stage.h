// What a stage process is told on its command line, all of it trivially copyable.
#pragma once

#include <cstddef>
#include <cstdint>

namespace spike {

enum class MemoryKind { kIpc, kVmm };

// How rows go to the neighbour: stores of one kernel and the flag by the next; both by one kernel,
// whose last block releases the flag; or a copy node, which addresses the neighbour, and the flag.
enum class SendKind { kStores, kFused, kCopyEngine };

struct StageOptions {
  int role = 0;  // 0: first, 1: last
  int device = 0;
  MemoryKind memory = {};
  SendKind send = {};
  uint32_t depth = 4;        // plans in flight
  uint32_t ahead = 4;        // plans whose graphs are launched before they are due
  size_t slot_bytes = 0;     // of a mailbox slot
  size_t send_bytes = 0;     // rows to the neighbour
  size_t receive_bytes = 0;  // rows from it
  int layers = 0;            // GEMMs of 64 x 4096 x 12288 a plan
  uint64_t layers_ns = 0;    // of waiting in their place, where a hop is timed
  int store_blocks = 16;
  uint32_t repeat = 1;              // times the rows are stored
  uint64_t limit_ns = 200'000'000;  // of a wait
  int capture_pause_ms = 0;         // inside the capture
  size_t ballast_bytes = 1;
};

// Talks with the driver over `fd` until it is gone; the process's exit code.
int RunStage(const StageOptions& options, int fd);

}  // namespace spike
