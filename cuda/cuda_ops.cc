#include "cuda/cuda_ops.h"

#include "cuda/add_norm.h"
#include "cuda/cuda_check.h"
#include "cuda/kernels/fused_launchers.h"
#include "cuda/kernels/launchers.h"

namespace penstock::cuda {

absl::StatusOr<std::unique_ptr<CudaOps>> CudaOps::Make(const HeadLayout& heads, int64_t vocab_size,
                                                       int64_t max_rows, SumOrder order,
                                                       BaseAllocator& memory) {
  std::unique_ptr<CudaOps> ops(new CudaOps(order));
  PENSTOCK_ASSIGN_OR_RETURN(ops->sampling_, SamplingBuffer::Make(vocab_size, memory));
  PENSTOCK_ASSIGN_OR_RETURN(
      ops->decoder_workspace_,
      Tensor::Make(DataType::kU8, {DecoderAttentionWorkspace(heads, max_rows, order)}, memory));
  PENSTOCK_ASSIGN_OR_RETURN(ops->squares_,
                            Tensor::Make(DataType::kF32, {AddNormWorkspace() / 4}, memory));
  PENSTOCK_ASSIGN_OR_RETURN(ops->zeros_, Tensor::Make(DataType::kBF16, AddNormZeros(), memory));
  CUDA_CHECK(cudaMemsetAsync(ops->zeros_.raw(), 0, static_cast<size_t>(ops->zeros_.bytes()),
                             ops->stream_.get()));
  CUDA_CHECK(cudaMemsetAsync(ops->decoder_workspace_.raw(), 0,
                             static_cast<size_t>(ops->decoder_workspace_.bytes()),
                             ops->stream_.get()));
  return ops;
}

void CudaOps::Embedding(const Tensor& ids, const Tensor& table, const Tensor& out) {
  LaunchEmbedding(stream_.get(), ids, table, out);
}

void CudaOps::RmsNorm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  LaunchRmsNorm(stream_.get(), x, weight, eps, out);
}

void CudaOps::FusedResidualNorm(const Tensor& residual, const Tensor& x, const Tensor& bias,
                                const Tensor& weight, float eps, const Tensor& out) {
  LaunchFusedResidualNorm(stream_.get(), residual, x, bias, weight, eps, out);
}

void CudaOps::Linear(const Tensor& x, const Tensor& weight, const Tensor& out) {
  LaunchLinear(blas_, stream_.get(), x, weight, out);
}

void CudaOps::LinearAdd(const Tensor& x, const Tensor& weight, const Tensor& sum) {
  LaunchLinearAdd(blas_, stream_.get(), x, weight, sum);
}

void CudaOps::RopeTable(std::span<const float> frequencies, const Tensor& positions,
                        const Tensor& table) {
  LaunchRopeTable(stream_.get(), frequencies, positions, table);
}

void CudaOps::BiasRope(const BiasRopeArgs& args) { LaunchBiasRope(stream_.get(), args); }

void CudaOps::BiasRopePadded(const BiasRopeArgs& args, const Tensor& row_starts,
                             const Tensor& queries) {
  LaunchBiasRopePadded(stream_.get(), args, row_starts, queries);
}

void CudaOps::ConcatKv(const Tensor& qkv, const Tensor& kv_slots, const HeadLayout& heads,
                       const Tensor& kv) {
  LaunchConcatKv(stream_.get(), qkv, kv_slots, heads, kv);
}

void CudaOps::FlashAttention(const AttentionArgs& args) {
  LaunchFlashAttention(stream_.get(), args, order_);
}

void CudaOps::DecoderAttention(const AttentionArgs& args) {
  LaunchDecoderAttention(stream_.get(), args, decoder_workspace_, order_);
}

void CudaOps::Swiglu(const Tensor& gate_up, const Tensor& out) {
  LaunchSwiglu(stream_.get(), gate_up, out);
}

void CudaOps::GatedLinear(const Tensor& x, const Tensor& weight, const Tensor& gate_up,
                          const Tensor& out) {
  if (LaunchGatedLinear(blas_, stream_.get(), x, weight, out)) return;
  Ops::GatedLinear(x, weight, gate_up, out);
}

void CudaOps::AddNorm(const AddNormArgs& add) {
  if (!LaunchAddNorm(blas_, stream_.get(), add)) Ops::AddNorm(add);
}

void CudaOps::AddNormLinear(const AddNormArgs& add, const Tensor& weight, const Tensor& out) {
  if (LaunchAddNormLinear(order_, stream_.get(), add, squares_, weight, out)) return;
  Ops::AddNormLinear(add, weight, out);
}

void CudaOps::AddOfNormLinear(const AddNormArgs& add, const Tensor& weight) {
  if (LaunchAddOfNormLinear(blas_, stream_.get(), add, squares_, weight)) return;
  Ops::AddOfNormLinear(add, weight);
}

void CudaOps::NormLinearOfAdd(const AddNormArgs& add, const Tensor& weight, const Tensor& out) {
  if (LaunchNormLinearOfAdd(order_, stream_.get(), add, squares_, zeros_, weight, out)) return;
  Ops::NormLinearOfAdd(add, weight, out);
}

void CudaOps::AddNormGatedLinear(const AddNormArgs& add, const Tensor& weight,
                                 const Tensor& gate_up, const Tensor& out) {
  if (LaunchAddNormGatedLinear(order_, stream_.get(), add, squares_, weight, out)) return;
  Ops::AddNormGatedLinear(add, weight, gate_up, out);
}

void CudaOps::RopeConcatKv(const BiasRopeArgs& rope, const Tensor& kv_slots, const Tensor& kv) {
  LaunchRopeConcatKv(stream_.get(), rope, kv_slots, kv);
}

void CudaOps::RopeDecoderAttention(const BiasRopeArgs& rope, const AttentionArgs& args) {
  const bool only_turns = rope.bias.empty() && rope.q_gain.empty() && rope.k_gain.empty();
  if (!only_turns || !HasRopeDecoderAttention(args)) {
    return Ops::RopeDecoderAttention(rope, args);
  }
  LaunchRopeDecoderAttention(stream_.get(), rope.rope_table, args, decoder_workspace_, order_);
}

void CudaOps::TopK(const Tensor& x, const Tensor& values, const Tensor& indices) {
  LaunchTopK(stream_.get(), x, values, indices);
}

void CudaOps::Sampling(const Tensor& logits, std::span<const SamplingRow> rows,
                       const SamplingOutput& out) {
  LaunchSampling(*sampling_, stream_.get(), logits, rows, out);
}

void CudaOps::PaddingOffset(const Tensor& row_starts, int64_t max_len, const Tensor& offsets) {
  LaunchPaddingOffset(stream_.get(), row_starts, max_len, offsets);
}

void CudaOps::CausalMask(const Tensor& row_starts, const Tensor& context_lens, int64_t window,
                         const Tensor& mask) {
  LaunchCausalMask(stream_.get(), row_starts, context_lens, window, mask);
}

void CudaOps::RebuildPadding(const Tensor& ragged, const Tensor& row_starts, const Tensor& padded) {
  LaunchRebuildPadding(stream_.get(), ragged, row_starts, padded);
}

void CudaOps::RepeatKv(const Tensor& kv, const Tensor& block_tables, const Tensor& context_lens,
                       const HeadLayout& heads, const Tensor& keys, const Tensor& values) {
  LaunchRepeatKv(stream_.get(), kv, block_tables, context_lens, heads, keys, values);
}

void CudaOps::BatchedGemm(const Tensor& a, const Tensor& b, bool transpose_b, float alpha,
                          const Tensor& c) {
  LaunchBatchedGemm(blas_, stream_.get(), a, b, transpose_b, alpha, c);
}

void CudaOps::MaskScaleSoftmax(const Tensor& scores, const Tensor& mask, float scale) {
  LaunchMaskScaleSoftmax(stream_.get(), scores, mask, scale);
}

void CudaOps::RemovePadding(const Tensor& padded, const Tensor& offsets, const Tensor& ragged) {
  LaunchRemovePadding(stream_.get(), padded, offsets, ragged);
}

void CudaOps::Dequantize(const Tensor& stored, int64_t first, const RowOrder& order,
                         const Tensor& out) {
  LaunchDequantize(stream_.get(), stored, first, order, out);
}

void CudaOps::Gemv(const Tensor& weight, const Tensor& x, const Tensor& y) {
  LaunchGemv(stream_.get(), weight, x, y);
}

void CudaOps::Sgemm(float alpha, const Tensor& a, const Tensor& b, float beta, const Tensor& c) {
  LaunchSgemm(stream_.get(), alpha, a, b, beta, c);
}

void CudaOps::Conv2d(const Tensor& in, const Tensor& weight, const Tensor& bias,
                     const Conv2dOptions& options, const Tensor& out) {
  LaunchConv2d(stream_.get(), in, weight, bias, options, out);
}

}  // namespace penstock::cuda
