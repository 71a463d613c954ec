// Launchers of two stems in one kernel, beside those of launchers.h and by their rules. The bits
// are those of the two behind each other.
#pragma once

#include "cuda/kernels/launchers.h"

namespace penstock::cuda {

// linear, then swiglu: weight [gate's rows, then up's], out [num_tokens, half of them]. Does
// nothing and returns false where there is no such kernel for these tensors, or for `blas`'s order.
bool LaunchGatedLinear(const Blas& blas, StreamHandle stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out);

// x [num_tokens, hidden] f32 += halves[0] + halves[1], then out = rms_norm(x): linear_add whose
// product came in two halves of k, and rms_norm.
void LaunchSumNorm(StreamHandle stream, const Tensor& x, const Tensor& halves, const Tensor& weight,
                   float eps, const Tensor& out);

// bias_rope, then concat_kv: queries turn in qkv, keys and values stay there as the product left
// them.
void LaunchRopeConcatKv(StreamHandle stream, const BiasRopeArgs& args, const Tensor& kv_slots,
                        const Tensor& kv);

// bias_rope without bias and gains, then decoder_attention. args.qkv is as the product left it and
// stays so; rope_table [num_rows, head_dim] f32. `workspace` as for decoder_attention, and the
// same. REQUIRES: HasRopeDecoderAttention.
bool HasRopeDecoderAttention(const AttentionArgs& args);
void LaunchRopeDecoderAttention(StreamHandle stream, const Tensor& rope_table,
                                const AttentionArgs& args, const Tensor& workspace,
                                SumOrder order = SumOrder::kFastest);

}  // namespace penstock::cuda
