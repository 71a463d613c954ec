// The weights of a decoder layer, from the finest class to the layer. Shapes are [out, in]:
// a linear layer computes x W^T.
#pragma once

#include "core/weights/base_weight.h"

namespace penstock {

struct NormWeight final : BaseWeight {
  // Over the hidden size, unless another is named.
  explicit NormWeight(int64_t ModelConfig::*norm_size = &ModelConfig::hidden_size)
      : size(norm_size) {}

  int64_t ModelConfig::*size;
  Tensor gain;  // [size] f32

  // `prefix` is the tensor's whole name here.
  absl::Status Load(const WeightLoader& loader, std::string_view prefix) override;
  int64_t bytes() const override { return gain.empty() ? 0 : gain.bytes(); }
};

struct EmbeddingWeight final : BaseWeight {
  Tensor table;  // [vocab, hidden], in place

  // `prefix` is the tensor's whole name here.
  absl::Status Load(const WeightLoader& loader, std::string_view prefix) override;
  int64_t bytes() const override { return table.bytes(); }
};

struct AttentionWeight final : BaseWeight {
  PackedWeight qkv;  // [q + k + v, hidden]: one GEMM; q and k rows in the half-split RoPE order
  Tensor qkv_bias;   // [q + k + v] f32, in the order of the rows; empty unless config.qkv_bias
  // Of each head, in the same order; empty unless config.qk_norm.
  NormWeight q_norm{&ModelConfig::head_dim};
  NormWeight k_norm{&ModelConfig::head_dim};
  Tensor output;  // [hidden, q], in place

  absl::Status Load(const WeightLoader& loader, std::string_view prefix) override;
  int64_t bytes() const override;
};

struct FfnWeight final : BaseWeight {
  PackedWeight gate_up;  // [2 * intermediate, hidden]: one GEMM
  Tensor down;           // [hidden, intermediate], in place

  absl::Status Load(const WeightLoader& loader, std::string_view prefix) override;
  int64_t bytes() const override { return gate_up.bytes() + down.bytes(); }
};

struct LayerWeight final : BaseWeight {
  NormWeight input_norm;
  AttentionWeight attention;
  NormWeight post_attention_norm;
  FfnWeight ffn;

  absl::Status Load(const WeightLoader& loader, std::string_view prefix) override;
  int64_t bytes() const override;
};

}  // namespace penstock
