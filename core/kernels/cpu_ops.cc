#include "core/kernels/cpu_ops.h"

#include "core/kernels/bias_rope.h"
#include "core/kernels/concat_kv.h"
#include "core/kernels/decoder_attention.h"
#include "core/kernels/embedding.h"
#include "core/kernels/flash_attention.h"
#include "core/kernels/fused_residual_norm.h"
#include "core/kernels/linear.h"
#include "core/kernels/rms_norm.h"
#include "core/kernels/sampling.h"
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

void CpuOps::BiasRope(const Tensor& qkv, const Tensor& bias, const Tensor& positions,
                      const Tensor& rope_table, const HeadLayout& heads) {
  cpu::BiasRope(pool_, qkv, bias, positions, rope_table, heads);
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

void CpuOps::Sampling(const Tensor& logits, std::span<const SamplingRow> rows, const Tensor& tokens,
                      const Tensor& logprobs) {
  cpu::Sampling(pool_, logits, rows, tokens, logprobs);
}

}  // namespace penstock
