// The launchers of the CUDA kernels, one a stem. Each does what its CPU twin does: maths, shapes,
// element types and bytes are in core/kernels/<stem>.h. It checks shapes, chooses its
// configuration, launches on `stream` and checks the launch; it neither waits nor allocates.
// All tensors are on the current device and stay alive until the stream has passed them.
// Thread-safe as far as the stream is. What a CPU twin CHECKs of values (ids, slots, lengths),
// the device checks too: a mistake there ends the process.
#pragma once

#include <span>

#include "core/kernels/attention_args.h"
#include "core/kernels/bias_rope.h"
#include "core/kernels/conv2d.h"
#include "core/kernels/sampling.h"
#include "core/tensor/row_order.h"
#include "core/tensor/tensor.h"
#include "cuda/sum_order.h"

struct CUstream_st;

namespace penstock::cuda {

class Blas;
class SamplingBuffer;
using StreamHandle = CUstream_st*;  // cudaStream_t, without CUDA's headers

void LaunchEmbedding(StreamHandle stream, const Tensor& ids, const Tensor& table,
                     const Tensor& out);
void LaunchRmsNorm(StreamHandle stream, const Tensor& x, const Tensor& weight, float eps,
                   const Tensor& out);
void LaunchFusedResidualNorm(StreamHandle stream, const Tensor& residual, const Tensor& x,
                             const Tensor& bias, const Tensor& weight, float eps,
                             const Tensor& out);
// The weight is of x's element type; out is of it too, or f32.
void LaunchLinear(Blas& blas, StreamHandle stream, const Tensor& x, const Tensor& weight,
                  const Tensor& out);
void LaunchLinearAdd(Blas& blas, StreamHandle stream, const Tensor& x, const Tensor& weight,
                     const Tensor& sum);
void LaunchRopeTable(StreamHandle stream, std::span<const float> frequencies,
                     const Tensor& positions, const Tensor& table);
void LaunchBiasRope(StreamHandle stream, const BiasRopeArgs& args);
void LaunchBiasRopePadded(StreamHandle stream, const BiasRopeArgs& args, const Tensor& row_starts,
                          const Tensor& queries);
void LaunchSwiglu(StreamHandle stream, const Tensor& gate_up, const Tensor& out);
void LaunchConcatKv(StreamHandle stream, const Tensor& qkv, const Tensor& kv_slots,
                    const HeadLayout& heads, const Tensor& kv);
// Whether both attention kernels have the fixed order for this type and these heads.
bool HasFixedOrder(DataType type, const HeadLayout& heads);
void LaunchFlashAttention(StreamHandle stream, const AttentionArgs& args,
                          SumOrder order = SumOrder::kFastest);
// workspace: u8, DecoderAttentionWorkspace() bytes for as many rows or more, all zero before its
// first call; of one stream and one order. At most kMaxDecodeRows rows.
inline constexpr int kMaxDecodeRows = 1024;
void LaunchDecoderAttention(StreamHandle stream, const AttentionArgs& args, const Tensor& workspace,
                            SumOrder order = SumOrder::kFastest);
int64_t DecoderAttentionWorkspace(const HeadLayout& heads, int64_t max_rows,
                                  SumOrder order = SumOrder::kFastest);
void LaunchTopK(StreamHandle stream, const Tensor& x, const Tensor& values, const Tensor& indices);
// What the rows name is on the host, and need not stay. Logits are changed while the kernel runs,
// and are as they were at its end.
void LaunchSampling(SamplingBuffer& buffer, StreamHandle stream, const Tensor& logits,
                    std::span<const SamplingRow> rows, const SamplingOutput& out);

// The padded prefill attention, in its order.
void LaunchPaddingOffset(StreamHandle stream, const Tensor& row_starts, int64_t max_len,
                         const Tensor& offsets);
void LaunchCausalMask(StreamHandle stream, const Tensor& row_starts, const Tensor& context_lens,
                      int64_t window, const Tensor& mask);
void LaunchRebuildPadding(StreamHandle stream, const Tensor& ragged, const Tensor& row_starts,
                          const Tensor& padded);
void LaunchRepeatKv(StreamHandle stream, const Tensor& kv, const Tensor& block_tables,
                    const Tensor& context_lens, const HeadLayout& heads, const Tensor& keys,
                    const Tensor& values);
void LaunchBatchedGemm(Blas& blas, StreamHandle stream, const Tensor& a, const Tensor& b,
                       bool transpose_b, float alpha, const Tensor& c);
void LaunchMaskScaleSoftmax(StreamHandle stream, const Tensor& scores, const Tensor& mask,
                            float scale);
void LaunchRemovePadding(StreamHandle stream, const Tensor& padded, const Tensor& offsets,
                         const Tensor& ragged);

// By which weights come into the activations' type while loading.
void LaunchDequantize(StreamHandle stream, const Tensor& stored, int64_t first,
                      const RowOrder& order, const Tensor& out);

// Library kernels: no model needs them.
void LaunchGemv(StreamHandle stream, const Tensor& weight, const Tensor& x, const Tensor& y);
void LaunchSgemm(StreamHandle stream, float alpha, const Tensor& a, const Tensor& b, float beta,
                 const Tensor& c);
void LaunchConv2d(StreamHandle stream, const Tensor& in, const Tensor& weight, const Tensor& bias,
                  const Conv2dOptions& options, const Tensor& out);

}  // namespace penstock::cuda
