// CpuOps: the CPU backend, the embedded default and the reference of every other backend.
// Owns nothing: the pool must outlive it. One thread at a time. Open to tests that put a kernel
// with a fault in the place of one.
#pragma once

#include "core/base/thread_pool.h"
#include "core/kernels/ops.h"

namespace penstock {

class CpuOps : public Ops {
 public:
  explicit CpuOps(ThreadPool& pool) : pool_(pool) {}

  void Embedding(const Tensor& ids, const Tensor& table, const Tensor& out) override;
  void RmsNorm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) override;
  void FusedResidualNorm(const Tensor& residual, const Tensor& x, const Tensor& bias,
                         const Tensor& weight, float eps, const Tensor& out) override;
  void Linear(const Tensor& x, const Tensor& weight, const Tensor& out) override;
  void LinearAdd(const Tensor& x, const Tensor& weight, const Tensor& sum) override;
  void RopeTable(std::span<const float> frequencies, const Tensor& positions,
                 const Tensor& table) override;
  void BiasRope(const BiasRopeArgs& args) override;
  void BiasRopePadded(const BiasRopeArgs& args, const Tensor& row_starts,
                      const Tensor& queries) override;
  void ConcatKv(const Tensor& qkv, const Tensor& kv_slots, const HeadLayout& heads,
                const Tensor& kv) override;
  void FlashAttention(const AttentionArgs& args) override;
  void DecoderAttention(const AttentionArgs& args) override;
  void Swiglu(const Tensor& gate_up, const Tensor& out) override;
  void TopK(const Tensor& x, const Tensor& values, const Tensor& indices) override;
  void Sampling(const Tensor& logits, std::span<const SamplingRow> rows,
                const SamplingOutput& out) override;
  void PaddingOffset(const Tensor& row_starts, int64_t max_len, const Tensor& offsets) override;
  void CausalMask(const Tensor& row_starts, const Tensor& context_lens, int64_t window,
                  const Tensor& mask) override;
  void RebuildPadding(const Tensor& ragged, const Tensor& row_starts,
                      const Tensor& padded) override;
  void RepeatKv(const Tensor& kv, const Tensor& block_tables, const Tensor& context_lens,
                const HeadLayout& heads, const Tensor& keys, const Tensor& values) override;
  void BatchedGemm(const Tensor& a, const Tensor& b, bool transpose_b, float alpha,
                   const Tensor& c) override;
  void MaskScaleSoftmax(const Tensor& scores, const Tensor& mask, float scale) override;
  void RemovePadding(const Tensor& padded, const Tensor& offsets, const Tensor& ragged) override;
  void Dequantize(const Tensor& stored, int64_t first, const RowOrder& order,
                  const Tensor& out) override;
  void Gemv(const Tensor& weight, const Tensor& x, const Tensor& y) override;
  void Sgemm(float alpha, const Tensor& a, const Tensor& b, float beta, const Tensor& c) override;
  void Conv2d(const Tensor& in, const Tensor& weight, const Tensor& bias,
              const Conv2dOptions& options, const Tensor& out) override;

 private:
  ThreadPool& pool_;
};

}  // namespace penstock
