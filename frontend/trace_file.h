// Traces of requests, as tests/bench/trace.py makes them: what `penstock bench serve` replays. One
// JSON object a line: {"arrival": seconds, "prompt": tokens, "output": tokens, "seed": number}.
// Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace penstock {

struct TraceRequest {
  double arrival = 0;  // seconds since the start
  int64_t prompt = 0;  // tokens
  int64_t output = 0;  // tokens
  int64_t seed = 0;    // of the prompt's ids
};

// In the order of arrival. Empty lines are passed over. `name` is what errors call the text.
// Errors: INVALID_ARGUMENT with the number of the line, and what a line has to be.
absl::StatusOr<std::vector<TraceRequest>> ParseTrace(std::string_view text,
                                                     const std::string& name);
// A file, or "-" for standard input. Errors: NOT_FOUND, and ParseTrace's.
absl::StatusOr<std::vector<TraceRequest>> ReadTrace(const std::string& path);

// The trace's rule: ids[i] = 10 + (seed * 7919 + i * 104729) mod (vocabulary - 10).
// REQUIRES: vocabulary > 10.
std::vector<int32_t> TracePromptIds(int64_t seed, int64_t count, int64_t vocabulary);

struct TraceLimits {
  int64_t max_prompt = 0;  // tokens; 0: none
  int64_t max_output = 0;
  int64_t context = 0;  // prompt and output together
};

// Cuts what is longer than the limits, the prompt where both together are; returns how many
// requests were cut. REQUIRES: context > 1.
int64_t ClipTrace(const TraceLimits& limits, std::vector<TraceRequest>* trace);

}  // namespace penstock
