// ModelLimits: what a model is told before it loads: the size of its batches, and which of two
// prefill attentions it runs. Its workspace is made for the largest of them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/tensor/data_type.h"

namespace penstock {

enum class PrefillAttention : uint8_t {
  kFlash,   // flash_attention: ragged rows, no scores in memory
  kPadded,  // rows padded to one length, whole scores in memory: the first design, the oracle
};

struct ModelLimits {
  int64_t max_tokens = 512;  // of one batch
  int64_t max_samples = 64;  // rows of logits
  PrefillAttention prefill_attention = PrefillAttention::kFlash;
  int64_t padded_memory_bytes = int64_t{2} << 30;  // what kPadded may take for its workspace
  DataType precision = DataType::kF32;             // the element type of activations
};

// Rows of logits that a stage makes room for: all its sequences at once, and enough for a prompt's
// log-probabilities, so that each pass over the LM head serves many tokens.
inline int64_t SampleRows(int64_t max_sequences) { return std::max<int64_t>(max_sequences, 32); }

}  // namespace penstock
