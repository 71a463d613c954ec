// ModelConfig: what a decoder-only Llama-family model is, in the names of Hugging Face's
// config.json. Read from a model file and validated once; plain values after that.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/status.h"

namespace penstock {

// How the angles of RoPE are stretched for contexts beyond those of the first training.
struct RopeScaling {
  enum class Type : uint8_t {
    kNone,
    kLinear,   // all frequencies divided by `factor`
    kLlama3,   // by wavelength, as Llama 3.1 does
    kFactors,  // frequency i divided by factors[i]: what a GGUF file says of Llama 3.1
  };
  Type type = Type::kNone;
  float factor = 1.0f;
  // kLlama3 only. Wavelengths above original_context / low_freq_factor are divided by `factor`,
  // those below original_context / high_freq_factor stay, those between are blended.
  float low_freq_factor = 1.0f;
  float high_freq_factor = 4.0f;
  int64_t original_context = 8192;  // positions
  std::vector<float> factors;       // kFactors only: [head_dim / 2]
};

struct ModelConfig {
  std::string architecture;  // "llama", "mistral", "qwen2", "qwen3"
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
  RopeScaling rope_scaling;
  int64_t sliding_window = 0;    // positions a token sees, itself included; 0: all before it
  bool qkv_bias = false;         // q_proj, k_proj and v_proj have a bias
  bool qk_norm = false;          // RMSNorm over each head of q and k, before RoPE
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
