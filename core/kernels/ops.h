// Ops: the kernels that a model is made of, one virtual a stem. A backend that lacks one does not
// compile. The contract of each (maths, shapes, element types) is in <stem>.h.
// Calls are enqueued in order on the backend's stream (the CPU's runs them at once); tensors must
// stay alive until the stream has passed them. One thread at a time.
#pragma once

#include <span>

#include "core/kernels/attention_args.h"
#include "core/kernels/bias_rope.h"
#include "core/kernels/sampling.h"
#include "core/tensor/tensor.h"

namespace penstock {

class Ops {
 public:
  virtual ~Ops() = default;

  virtual void Embedding(const Tensor& ids, const Tensor& table, const Tensor& out) = 0;
  virtual void RmsNorm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) = 0;
  virtual void FusedResidualNorm(const Tensor& residual, const Tensor& x, const Tensor& bias,
                                 const Tensor& weight, float eps, const Tensor& out) = 0;
  virtual void Linear(const Tensor& x, const Tensor& weight, const Tensor& out) = 0;
  virtual void BiasRope(const Tensor& qkv, const Tensor& bias, const Tensor& positions,
                        const Tensor& rope_table, const HeadLayout& heads) = 0;
  virtual void ConcatKv(const Tensor& qkv, const Tensor& kv_slots, const HeadLayout& heads,
                        const Tensor& kv) = 0;
  virtual void FlashAttention(const AttentionArgs& args) = 0;
  virtual void DecoderAttention(const AttentionArgs& args) = 0;
  virtual void Swiglu(const Tensor& gate_up, const Tensor& out) = 0;
  virtual void TopK(const Tensor& x, const Tensor& values, const Tensor& indices) = 0;
  virtual void Sampling(const Tensor& logits, std::span<const SamplingRow> rows,
                        const Tensor& tokens, const Tensor& logprobs) = 0;
};

}  // namespace penstock
