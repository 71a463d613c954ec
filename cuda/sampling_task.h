// What the sampling kernel is told of a row, laid out alike on host and device. Plain values.
#pragma once

#include <cstdint>

namespace penstock::cuda {

// A token whose logit is changed: `amount` is a bias, or how often the answer holds it.
struct LogitEdit {
  int32_t token;
  float amount;
};

struct SamplingTask {
  double log_min_p;  // -infinity: none
  uint64_t seed;
  int64_t position;
  float temperature;
  float top_p;
  float repetition_penalty;
  float frequency_penalty;
  float presence_penalty;
  int32_t top_k;
  int32_t choice;
  int32_t top;
  int32_t target;
  // In the list of edits, from first_edit on: biases, tokens of the history, masked tokens. In each
  // a token is there once.
  int32_t first_edit;
  int32_t num_biases;
  int32_t num_counts;
  int32_t num_masks;
};

}  // namespace penstock::cuda
