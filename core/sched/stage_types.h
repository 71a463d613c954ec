// What a stage is told before it loads, and what it says once it is ready. Plain values;
// proto/worker_codec.h puts them on the wire.
#pragma once

#include <cstdint>
#include <string>

#include "core/model/model_config.h"
#include "core/model/model_limits.h"

namespace penstock {

// All limits are settings of the front end.
struct StageOptions {
  std::string model;              // path of the model file
  int64_t kv_memory_bytes = 0;    // for the KV blocks of this stage's layers
  int64_t max_step_tokens = 512;  // tokens of one plan
  int64_t max_sequences = 64;     // slots; also rows sampled in one plan
  int threads = 0;                // 0: one a core
  PrefillAttention prefill_attention = PrefillAttention::kFlash;
  int64_t padded_memory_bytes = int64_t{2} << 30;  // of workspace, if prefill attention is padded
  std::string check_file =
      {};  // whose hashes the weights must have (core/io/check_file.h); empty: none
};

// How far a stage has come with loading, in weights (elements, not bytes: those depend on a file's
// quantization and are known only once all of it has been read).
struct LoadProgress {
  int64_t done = 0;
  int64_t total = 0;
  std::string tensor;  // the one that is next
};

struct StageInfo {
  ModelConfig config;
  int64_t num_blocks = 0;  // KV blocks of kBlockSize tokens
  int64_t weight_bytes = 0;
  int64_t load_ns = 0;
};

}  // namespace penstock
