#include "core/io/model_hash.h"

#include <algorithm>
#include <bit>
#include <string>

#include "core/base/hash64.h"

namespace penstock {
namespace {

// A text in which each field stands with its length, so that no two lists of fields give the same.
class Fields {
 public:
  void Add(std::string_view text) { absl::StrAppend(&text_, text.size(), ":", Abs(text)); }
  void Add(int64_t value) { Add(absl::StrCat(value)); }
  void Add(float value) { Add(int64_t{std::bit_cast<uint32_t>(value)}); }

  uint64_t Hash() const { return Hash64(text_); }

 private:
  std::string text_;
};

// tests/core/io/model_hash_test.cc finds a field that was forgotten.
void AddConfig(const ModelConfig& config, Fields& fields) {
  fields.Add(config.architecture);
  for (const int64_t size :
       {config.hidden_size, config.intermediate_size, config.num_layers, config.num_heads,
        config.num_kv_heads, config.head_dim, config.vocab_size, config.context_length,
        config.sliding_window, int64_t{config.qkv_bias}, int64_t{config.qk_norm},
        int64_t{config.tied_embeddings}}) {
    fields.Add(size);
  }
  fields.Add(config.rms_norm_eps);
  fields.Add(config.rope_theta);
  const RopeScaling& scaling = config.rope_scaling;
  fields.Add(static_cast<int64_t>(scaling.type));
  fields.Add(scaling.factor);
  fields.Add(scaling.low_freq_factor);
  fields.Add(scaling.high_freq_factor);
  fields.Add(scaling.original_context);
  fields.Add(static_cast<int64_t>(scaling.factors.size()));
  for (const float factor : scaling.factors) fields.Add(factor);
}

}  // namespace

uint64_t ModelHash(const ModelConfig& config, const WeightSource& source) {
  Fields fields;
  AddConfig(config, fields);
  for (const TensorInfo& tensor : source.Tensors()) {
    fields.Add(tensor.name);
    fields.Add(Name(tensor.type));
    fields.Add(tensor.shape.ToString());
  }
  return std::max<uint64_t>(fields.Hash(), 1);
}

}  // namespace penstock
