// Launchers of two stems in one kernel, beside those of launchers.h and by their rules. The bits
// are those of the two behind each other.
#pragma once

#include "core/kernels/ops.h"
#include "cuda/kernels/launchers.h"

namespace penstock::cuda {

// linear, then swiglu: weight [gate's rows, then up's], out [num_tokens, half of them]. Does
// nothing and returns false where there is no such kernel for these tensors, or for `blas`'s order.
bool LaunchGatedLinear(const Blas& blas, StreamHandle stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out);

// linear_add, rms_norm and the product of its rows, the norm's last step deferred into that
// (deferred_norm.h): not the bits of the three behind each other. They too do nothing and return
// false where there are no such kernels for these tensors or this order of sums. `workspace`:
// f32, AddNormWorkspace() bytes.
int64_t AddNormWorkspace();
bool LaunchAddNormLinear(SumOrder order, StreamHandle stream, const AddNormArgs& add,
                         const Tensor& workspace, const Tensor& weight, const Tensor& out);
bool LaunchAddNormGatedLinear(SumOrder order, StreamHandle stream, const AddNormArgs& add,
                              const Tensor& workspace, const Tensor& weight, const Tensor& out);

// AddNormLinear in two (core/kernels/ops.h), with the bits of LaunchAddNormLinear or LaunchAddNorm.
// The second is the same kernels too, with nothing added: a product of `zeros`, bf16 of shape
// AddNormZeros().
Shape AddNormZeros();
bool LaunchAddOfNormLinear(Blas& blas, StreamHandle stream, const AddNormArgs& add,
                           const Tensor& workspace, const Tensor& weight);
bool LaunchNormLinearOfAdd(SumOrder order, StreamHandle stream, const AddNormArgs& add,
                           const Tensor& workspace, const Tensor& zeros, const Tensor& weight,
                           const Tensor& out);

// x [num_tokens, hidden] f32 += halves[0] + halves[1], then out = rms_norm(x): linear_add whose
// product came in two halves of k, and rms_norm.
void LaunchSumNorm(StreamHandle stream, const Tensor& x, const Tensor& halves, const Tensor& weight,
                   float eps, const Tensor& out);

// linear_add, then rms_norm, of batches whose product leaves too few tiles to fill the GPU: in
// halves. Else does nothing and returns false.
bool LaunchAddNorm(Blas& blas, StreamHandle stream, const AddNormArgs& add);

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
