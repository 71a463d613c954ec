#include "core/kernels/cpu_ops.h"

#include "core/kernels/batched_gemm.h"
#include "core/kernels/bias_rope.h"
#include "core/kernels/causal_mask.h"
#include "core/kernels/concat_kv.h"
#include "core/kernels/conv2d.h"
#include "core/kernels/decoder_attention.h"
#include "core/kernels/dequantize.h"
#include "core/kernels/embedding.h"
#include "core/kernels/flash_attention.h"
#include "core/kernels/fused_residual_norm.h"
#include "core/kernels/gemv.h"
#include "core/kernels/linear.h"
#include "core/kernels/mask_scale_softmax.h"
#include "core/kernels/padding_offset.h"
#include "core/kernels/rebuild_padding.h"
#include "core/kernels/remove_padding.h"
#include "core/kernels/repeat_kv.h"
#include "core/kernels/rms_norm.h"
#include "core/kernels/sampling.h"
#include "core/kernels/sgemm.h"
#include "core/kernels/swiglu.h"
#include "core/kernels/top_k.h"

namespace penstock {

void CpuOps::Embedding(const Tensor& ids, const Tensor& table, const Tensor& out) {
  cpu::Embedding(pool_, ids, table, out);
}

void CpuOps::RmsNorm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  cpu::RmsNorm(pool_, x, weight, eps, out);
}

void CpuOps::FusedResidualNorm(const Tensor& residual, const Tensor& x, const Tensor& bias,
                               const Tensor& weight, float eps, const Tensor& out) {
  cpu::FusedResidualNorm(pool_, residual, x, bias, weight, eps, out);
}

void CpuOps::Linear(const Tensor& x, const Tensor& weight, const Tensor& out) {
  cpu::Linear(pool_, x, weight, out);
}

void CpuOps::LinearAdd(const Tensor& x, const Tensor& weight, const Tensor& sum) {
  cpu::LinearAdd(pool_, x, weight, sum);
}

void CpuOps::RopeTable(std::span<const float> frequencies, const Tensor& positions,
                       const Tensor& table) {
  cpu::RopeTable(pool_, frequencies, positions, table);
}

void CpuOps::BiasRope(const BiasRopeArgs& args) { cpu::BiasRope(pool_, args); }

void CpuOps::BiasRopePadded(const BiasRopeArgs& args, const Tensor& row_starts,
                            const Tensor& queries) {
  cpu::BiasRopePadded(pool_, args, row_starts, queries);
}

void CpuOps::ConcatKv(const Tensor& qkv, const Tensor& kv_slots, const HeadLayout& heads,
                      const Tensor& kv) {
  cpu::ConcatKv(pool_, qkv, kv_slots, heads, kv);
}

void CpuOps::FlashAttention(const AttentionArgs& args) { cpu::FlashAttention(pool_, args); }

void CpuOps::DecoderAttention(const AttentionArgs& args) { cpu::DecoderAttention(pool_, args); }

void CpuOps::Swiglu(const Tensor& gate_up, const Tensor& out) { cpu::Swiglu(pool_, gate_up, out); }

void CpuOps::TopK(const Tensor& x, const Tensor& values, const Tensor& indices) {
  cpu::TopK(pool_, x, values, indices);
}

void CpuOps::Sampling(const Tensor& logits, std::span<const SamplingRow> rows,
                      const SamplingOutput& out) {
  cpu::Sampling(pool_, logits, rows, out);
}

void CpuOps::PaddingOffset(const Tensor& row_starts, int64_t max_len, const Tensor& offsets) {
  cpu::PaddingOffset(pool_, row_starts, max_len, offsets);
}

void CpuOps::CausalMask(const Tensor& row_starts, const Tensor& context_lens, int64_t window,
                        const Tensor& mask) {
  cpu::CausalMask(pool_, row_starts, context_lens, window, mask);
}

void CpuOps::RebuildPadding(const Tensor& ragged, const Tensor& row_starts, const Tensor& padded) {
  cpu::RebuildPadding(pool_, ragged, row_starts, padded);
}

void CpuOps::RepeatKv(const Tensor& kv, const Tensor& block_tables, const Tensor& context_lens,
                      const HeadLayout& heads, const Tensor& keys, const Tensor& values) {
  cpu::RepeatKv(pool_, kv, block_tables, context_lens, heads, keys, values);
}

void CpuOps::BatchedGemm(const Tensor& a, const Tensor& b, bool transpose_b, float alpha,
                         const Tensor& c) {
  cpu::BatchedGemm(pool_, a, b, transpose_b, alpha, c);
}

void CpuOps::MaskScaleSoftmax(const Tensor& scores, const Tensor& mask, float scale) {
  cpu::MaskScaleSoftmax(pool_, scores, mask, scale);
}

void CpuOps::RemovePadding(const Tensor& padded, const Tensor& offsets, const Tensor& ragged) {
  cpu::RemovePadding(pool_, padded, offsets, ragged);
}

void CpuOps::Dequantize(const Tensor& stored, int64_t first, const RowOrder& order,
                        const Tensor& out) {
  cpu::Dequantize(pool_, stored, first, order, out);
}

void CpuOps::Gemv(const Tensor& weight, const Tensor& x, const Tensor& y) {
  cpu::Gemv(pool_, weight, x, y);
}

void CpuOps::Sgemm(float alpha, const Tensor& a, const Tensor& b, float beta, const Tensor& c) {
  cpu::Sgemm(pool_, alpha, a, b, beta, c);
}

void CpuOps::Conv2d(const Tensor& in, const Tensor& weight, const Tensor& bias,
                    const Conv2dOptions& options, const Tensor& out) {
  cpu::Conv2d(pool_, in, weight, bias, options, out);
}

}  // namespace penstock
