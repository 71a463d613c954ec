// Ops: the kernels that a model is made of, one virtual a stem. A backend that lacks one does not
// compile. The contract of each (maths, shapes, element types) is in <stem>.h.
// Calls are enqueued in order on the backend's stream (the CPU's runs them at once); tensors must
// stay alive until the stream has passed them. One thread at a time.
#pragma once

#include <span>

#include "core/kernels/attention_args.h"
#include "core/kernels/bias_rope.h"
#include "core/kernels/conv2d.h"
#include "core/kernels/sampling.h"
#include "core/tensor/row_order.h"
#include "core/tensor/tensor.h"

namespace penstock {

// residual += x weight^T, then norm = rms_norm(residual).
struct AddNormArgs {
  Tensor x;         // [num_tokens, in]
  Tensor weight;    // [hidden, in]
  Tensor residual;  // [num_tokens, hidden] f32
  Tensor gain;      // [hidden]
  float eps;
  Tensor norm;  // [num_tokens, hidden]
};

class Ops {
 public:
  virtual ~Ops() = default;

  virtual void Embedding(const Tensor& ids, const Tensor& table, const Tensor& out) = 0;
  virtual void RmsNorm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) = 0;
  virtual void Linear(const Tensor& x, const Tensor& weight, const Tensor& out) = 0;
  virtual void LinearAdd(const Tensor& x, const Tensor& weight, const Tensor& sum) = 0;
  virtual void RopeTable(std::span<const float> frequencies, const Tensor& positions,
                         const Tensor& table) = 0;
  virtual void BiasRope(const BiasRopeArgs& args) = 0;
  virtual void BiasRopePadded(const BiasRopeArgs& args, const Tensor& row_starts,
                              const Tensor& queries) = 0;
  virtual void ConcatKv(const Tensor& qkv, const Tensor& kv_slots, const HeadLayout& heads,
                        const Tensor& kv) = 0;
  virtual void FlashAttention(const AttentionArgs& args) = 0;
  virtual void DecoderAttention(const AttentionArgs& args) = 0;
  virtual void Swiglu(const Tensor& gate_up, const Tensor& out) = 0;
  // Kernels behind each other, of which a backend may make fewer: with the same bits, but for
  // AddNorm's where the order of sums is free. What lies between them, gate_up, the turned qkv and
  // the norm, is undefined afterwards, but for RopeConcatKv's queries.
  virtual void GatedLinear(const Tensor& x, const Tensor& weight, const Tensor& gate_up,
                           const Tensor& out) {
    Linear(x, weight, gate_up);
    Swiglu(gate_up, out);
  }
  virtual void AddNorm(const AddNormArgs& add) {
    LinearAdd(add.x, add.weight, add.residual);
    RmsNorm(add.residual, add.gain, add.eps, add.norm);
  }
  virtual void AddNormLinear(const AddNormArgs& add, const Tensor& weight, const Tensor& out) {
    AddNorm(add);
    Linear(add.norm, weight, out);
  }
  // AddNormLinear in two, for two stages: together the same bits. The first leaves the residual,
  // the second begins with it. Each is given the whole joint, with weights of its own stage in
  // place of the other's, of which it looks at the shapes alone: `weight`, and add.x and
  // add.weight.
  virtual void AddOfNormLinear(const AddNormArgs& add, const Tensor& /*weight*/) {
    LinearAdd(add.x, add.weight, add.residual);
  }
  virtual void NormLinearOfAdd(const AddNormArgs& add, const Tensor& weight, const Tensor& out) {
    RmsNorm(add.residual, add.gain, add.eps, add.norm);
    Linear(add.norm, weight, out);
  }
  virtual void AddNormGatedLinear(const AddNormArgs& add, const Tensor& weight,
                                  const Tensor& gate_up, const Tensor& out) {
    AddNorm(add);
    GatedLinear(add.norm, weight, gate_up, out);
  }
  virtual void RopeConcatKv(const BiasRopeArgs& rope, const Tensor& kv_slots, const Tensor& kv) {
    BiasRope(rope);
    ConcatKv(rope.qkv, kv_slots, rope.heads, kv);
  }
  virtual void RopeDecoderAttention(const BiasRopeArgs& rope, const AttentionArgs& args) {
    BiasRope(rope);
    DecoderAttention(args);
  }
  virtual void TopK(const Tensor& x, const Tensor& values, const Tensor& indices) = 0;
  virtual void Sampling(const Tensor& logits, std::span<const SamplingRow> rows,
                        const SamplingOutput& out) = 0;

  // The padded prefill attention, in its order.
  virtual void PaddingOffset(const Tensor& row_starts, int64_t max_len, const Tensor& offsets) = 0;
  virtual void CausalMask(const Tensor& row_starts, const Tensor& context_lens, int64_t window,
                          const Tensor& mask) = 0;
  virtual void RebuildPadding(const Tensor& ragged, const Tensor& row_starts,
                              const Tensor& padded) = 0;
  virtual void RepeatKv(const Tensor& kv, const Tensor& block_tables, const Tensor& context_lens,
                        const HeadLayout& heads, const Tensor& keys, const Tensor& values) = 0;
  virtual void BatchedGemm(const Tensor& a, const Tensor& b, bool transpose_b, float alpha,
                           const Tensor& c) = 0;
  virtual void MaskScaleSoftmax(const Tensor& scores, const Tensor& mask, float scale) = 0;
  virtual void RemovePadding(const Tensor& padded, const Tensor& offsets, const Tensor& ragged) = 0;

  // By which weights come into the activations' type while loading.
  virtual void Dequantize(const Tensor& stored, int64_t first, const RowOrder& order,
                          const Tensor& out) = 0;

  // Library kernels: no model needs them.
  virtual void FusedResidualNorm(const Tensor& residual, const Tensor& x, const Tensor& bias,
                                 const Tensor& weight, float eps, const Tensor& out) = 0;
  virtual void Gemv(const Tensor& weight, const Tensor& x, const Tensor& y) = 0;
  virtual void Sgemm(float alpha, const Tensor& a, const Tensor& b, float beta,
                     const Tensor& c) = 0;
  virtual void Conv2d(const Tensor& in, const Tensor& weight, const Tensor& bias,
                      const Conv2dOptions& options, const Tensor& out) = 0;
};

}  // namespace penstock
