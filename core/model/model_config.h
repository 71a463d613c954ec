// ModelConfig: what a decoder-only Llama-family model is, in the names of Hugging Face's
// config.json. Read from a model file and validated once; plain values after that.
#pragma once

#include <cstdint>
#include <string>

#include "core/base/status.h"

namespace penstock {

struct ModelConfig {
  std::string architecture;  // "llama"
  std::string name;          // what the file calls itself, for people
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t context_length = 0;  // positions the model was trained for, in tokens
  float rms_norm_eps = 1e-5f;
  float rope_theta = 10000.0f;
  bool tied_embeddings = false;  // no lm_head.weight: the embedding table is the LM head

  int64_t q_size() const { return num_heads * head_dim; }
  int64_t kv_size() const { return num_kv_heads * head_dim; }
  int64_t qkv_size() const { return q_size() + 2 * kv_size(); }
};

// Token ids are below this for every model.
inline constexpr int64_t kMaxVocabSize = int64_t{1} << 24;

// Every bound and relation that the forward pass relies on. Errors: INVALID_ARGUMENT with the
// field, its value and what was expected.
absl::Status Validate(const ModelConfig& config);

}  // namespace penstock
