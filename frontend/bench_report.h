// What `penstock bench serve` measured, and the figures that come of it. Pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace penstock {

// One request, by the client's steady clock; nanoseconds.
struct BenchCall {
  // Empty: it came to its end with as many tokens as asked for, all of them in the vocabulary.
  // Else a code, or "WRONG_LENGTH" or "BAD_ID".
  std::string error;
  std::string message;  // the server's
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;  // asked for
  std::vector<int32_t> ids;   // that came
  int64_t late_ns = 0;        // sent so long after it was due
  int64_t sent_ns = 0;        // since the start of the run
  int64_t first_ns = 0;       // since it was sent
  int64_t end_ns = 0;         // likewise
  // Between tokens: one fewer than there are. Tokens that came in one message share the time
  // since the message before equally.
  std::vector<double> gaps_ns;
};

// What a call must meet to count as good; 0: anything will do.
struct BenchTargets {
  double first_token_ms = 0;
  double token_gap_ms = 0;  // of a call's mean
};

struct Percentiles {
  int64_t count = 0;
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double max = 0;
};

// Linear between the two nearest ranks. Of nothing: zeros.
Percentiles PercentilesOf(std::vector<double> values);

struct BenchSummary {
  int64_t requests = 0;
  int64_t completed = 0;                  // without an error; all figures but errors are of these
  std::map<std::string, int64_t> errors;  // by error
  std::string first_message;              // of the first error
  double seconds = 0;                     // from the first sending to the last end
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  // From the last first token to the first last one: while all of them were answered. 0: there was
  // no such time.
  double full_seconds = 0;
  double full_tokens = 0;  // that came in it
  // Milliseconds.
  Percentiles first_token;
  Percentiles token_gap;       // over all tokens of all calls
  Percentiles time_per_token;  // a call's mean gap, over the calls
  Percentiles whole;
  Percentiles late;
  int64_t good = 0;  // that met the targets
};

BenchSummary Summarise(const std::vector<BenchCall>& calls, const BenchTargets& targets);

// For people, several lines.
std::string BenchText(const BenchSummary& summary, const BenchTargets& targets);
// One object, several lines.
std::string BenchJson(const BenchSummary& summary, const BenchTargets& targets);

}  // namespace penstock
