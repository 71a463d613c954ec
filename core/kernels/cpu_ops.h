// CpuOps: the CPU backend, the embedded default and the reference of every other backend.
// Owns nothing: the pool must outlive it. One thread at a time.
#pragma once

#include "core/base/thread_pool.h"
#include "core/kernels/ops.h"

namespace penstock {

class CpuOps final : public Ops {
 public:
  explicit CpuOps(ThreadPool& pool) : pool_(pool) {}

  void Embedding(const Tensor& ids, const Tensor& table, const Tensor& out) override;
  void RmsNorm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) override;
  void FusedResidualNorm(const Tensor& residual, const Tensor& x, const Tensor& bias,
                         const Tensor& weight, float eps, const Tensor& out) override;
  void Linear(const Tensor& x, const Tensor& weight, const Tensor& out) override;
  void BiasRope(const Tensor& qkv, const Tensor& bias, const Tensor& positions,
                const Tensor& rope_table, const HeadLayout& heads) override;
  void ConcatKv(const Tensor& qkv, const Tensor& kv_slots, const HeadLayout& heads,
                const Tensor& kv) override;
  void FlashAttention(const AttentionArgs& args) override;
  void DecoderAttention(const AttentionArgs& args) override;
  void Swiglu(const Tensor& gate_up, const Tensor& out) override;
  void TopK(const Tensor& x, const Tensor& values, const Tensor& indices) override;
  void Sampling(const Tensor& logits, std::span<const SamplingRow> rows, const Tensor& tokens,
                const Tensor& logprobs) override;

 private:
  ThreadPool& pool_;
};

}  // namespace penstock
