// A weight source over tensors in memory that writes down what it is asked for.
#pragma once

#include <map>
#include <set>
#include <string>

#include "core/io/weight_source.h"
#include "core/model/model_config.h"
#include "tests/support/tensors.h"

namespace penstock::testing {

class MemorySource final : public WeightSource {
 public:
  explicit MemorySource(RopeRows rope_rows = RopeRows::kHalves) : rope_rows_(rope_rows) {}

  void Put(const std::string& name, Tensor tensor) { tensors_[name] = std::move(tensor); }

  bool Contains(std::string_view name) const override {
    return tensors_.count(std::string(name)) > 0;
  }
  absl::StatusOr<Tensor> Get(std::string_view name, const Shape& expected) const override {
    const auto found = tensors_.find(std::string(name));
    if (found == tensors_.end()) return absl::NotFoundError(Abs(name));
    if (!(found->second.shape() == expected)) {
      return absl::InvalidArgumentError(absl::StrCat(
          Abs(name), " is ", found->second.shape().ToString(), ", not ", expected.ToString()));
    }
    asked_.insert(found->first);
    bytes_ += found->second.bytes();
    return found->second;
  }
  RopeRows rope_rows() const override { return rope_rows_; }
  void Forget(const Tensor& tensor) const override {
    for (const auto& [name, mine] : tensors_) {
      if (mine.raw() == tensor.raw()) forgotten_.insert(name);
    }
  }

  // Names, since the last Reset.
  const std::set<std::string>& asked() const { return asked_; }
  const std::set<std::string>& forgotten() const { return forgotten_; }
  int64_t asked_bytes() const { return bytes_; }
  void Reset() {
    asked_.clear();
    forgotten_.clear();
    bytes_ = 0;
  }

 private:
  const RopeRows rope_rows_;
  std::map<std::string, Tensor> tensors_;
  mutable std::set<std::string> asked_;
  mutable std::set<std::string> forgotten_;
  mutable int64_t bytes_ = 0;
};

// All tensors of a model of this configuration, random, in `type`; vectors in `vector_type`.
inline void PutModel(const ModelConfig& config, DataType type, DataType vector_type,
                     MemorySource& source) {
  uint32_t seed = 0;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(columns));
    source.Put(name, As(type, Random({rows, columns}, ++seed, scale)));
  };
  const auto vector = [&](const std::string& name, int64_t size) {
    source.Put(name, As(vector_type, Random({size}, ++seed)));
  };
  matrix("embed_tokens.weight", config.vocab_size, config.hidden_size);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string layer = absl::StrCat("layers.", i, ".");
    const std::string attention = layer + "self_attn.";
    vector(layer + "input_layernorm.weight", config.hidden_size);
    matrix(attention + "q_proj.weight", config.q_size(), config.hidden_size);
    matrix(attention + "k_proj.weight", config.kv_size(), config.hidden_size);
    matrix(attention + "v_proj.weight", config.kv_size(), config.hidden_size);
    if (config.qkv_bias) {
      vector(attention + "q_proj.bias", config.q_size());
      vector(attention + "k_proj.bias", config.kv_size());
      vector(attention + "v_proj.bias", config.kv_size());
    }
    if (config.qk_norm) {
      vector(attention + "q_norm.weight", config.head_dim);
      vector(attention + "k_norm.weight", config.head_dim);
    }
    matrix(attention + "o_proj.weight", config.hidden_size, config.q_size());
    vector(layer + "post_attention_layernorm.weight", config.hidden_size);
    matrix(layer + "mlp.gate_proj.weight", config.intermediate_size, config.hidden_size);
    matrix(layer + "mlp.up_proj.weight", config.intermediate_size, config.hidden_size);
    matrix(layer + "mlp.down_proj.weight", config.hidden_size, config.intermediate_size);
  }
  vector("norm.weight", config.hidden_size);
  if (!config.tied_embeddings) matrix("lm_head.weight", config.vocab_size, config.hidden_size);
}

}  // namespace penstock::testing
