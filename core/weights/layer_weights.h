// The weights of a decoder layer, from the finest class to the layer. Shapes are [out, in]:
// a linear layer computes x W^T.
#pragma once

#include "core/weights/base_weight.h"

namespace penstock {

struct NormWeight final : BaseWeight {
  Tensor gain;  // [hidden] f32

  // `prefix` is the tensor's whole name here.
  absl::Status Load(const WeightLoader& loader, std::string_view prefix) override;
  int64_t bytes() const override { return gain.bytes(); }
};

struct EmbeddingWeight final : BaseWeight {
  Tensor table;  // [vocab, hidden], in place

  // `prefix` is the tensor's whole name here.
  absl::Status Load(const WeightLoader& loader, std::string_view prefix) override;
  int64_t bytes() const override { return table.bytes(); }
};

struct AttentionWeight final : BaseWeight {
  PackedWeight qkv;  // [q + k + v, hidden]: one GEMM; q and k rows in the half-split RoPE order
  Tensor qkv_bias;   // [q + k + v] f32, or empty
  Tensor output;     // [hidden, q], in place

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
