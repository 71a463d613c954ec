// CudaOps: the kernels of a GPU, in one stream. It owns the stream and the workspaces of its
// kernels: nothing is allocated after it is made. Calls return at once, and may be captured, but
// for Sampling, which brings its parameters from the host. One thread at a time, with the GPU that
// it was made on as the current device.
#pragma once

#include "core/kernels/ops.h"
#include "cuda/blas.h"
#include "cuda/sampling_buffer.h"
#include "cuda/stream.h"

namespace penstock::cuda {

class CudaOps final : public Ops {
 public:
  // For models of these heads and this vocabulary, and steps in which so many rows decode. Of the
  // fixed order, REQUIRES: HasFixedOrder (cuda/kernels/launchers.h).
  // Errors: the allocator's, whose memory is the current device's and outlives this.
  static absl::StatusOr<std::unique_ptr<CudaOps>> Make(const HeadLayout& heads, int64_t vocab_size,
                                                       int64_t max_rows, SumOrder order,
                                                       BaseAllocator& memory);

  const CudaStream& stream() const { return stream_; }
  // lt_linear.h's.
  void UseGemmTable(GemmTable table) { blas_.UseTable(std::move(table)); }

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
  void GatedLinear(const Tensor& x, const Tensor& weight, const Tensor& gate_up,
                   const Tensor& out) override;
  void AddNorm(const AddNormArgs& add) override;
  void AddNormLinear(const AddNormArgs& add, const Tensor& weight, const Tensor& out) override;
  void AddOfNormLinear(const AddNormArgs& add, const Tensor& weight) override;
  void NormLinearOfAdd(const AddNormArgs& add, const Tensor& weight, const Tensor& out) override;
  void AddNormGatedLinear(const AddNormArgs& add, const Tensor& weight, const Tensor& gate_up,
                          const Tensor& out) override;
  void RopeConcatKv(const BiasRopeArgs& rope, const Tensor& kv_slots, const Tensor& kv) override;
  void RopeDecoderAttention(const BiasRopeArgs& rope, const AttentionArgs& args) override;
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
  explicit CudaOps(SumOrder order) : order_(order) { blas_.set_sum_order(order); }

  const SumOrder order_;
  CudaStream stream_;
  Blas blas_;
  std::unique_ptr<SamplingBuffer> sampling_;
  Tensor decoder_workspace_;  // u8
  Tensor squares_;            // f32, of a deferred norm
  Tensor zeros_;              // bf16
};

}  // namespace penstock::cuda
