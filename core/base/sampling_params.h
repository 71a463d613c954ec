// How one request's tokens are chosen. Plain values; made and checked by the request validator.
#pragma once

#include <cstdint>

namespace penstock {

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy, the most likely token, the lowest id among equals
  int32_t top_k = 0;         // keep the k most likely tokens; 0: all
  float top_p = 1.0f;        // keep the most likely tokens that together reach p; 1: all
  uint64_t seed = 0;   // of the counter-based generator; set at admission if the user set none
  int32_t choice = 0;  // which of the request's n answers this is
};

}  // namespace penstock
