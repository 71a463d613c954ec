// The launchers of the CUDA kernels, one a stem. Each does what its CPU twin does: maths, shapes,
// element types and bytes are in core/kernels/<stem>.h. It checks shapes, chooses its
// configuration, launches on `stream` and checks the launch; it neither waits nor allocates.
// All tensors are on the current device and stay alive until the stream has passed them.
// Thread-safe as far as the stream is. What a CPU twin CHECKs of values (ids, slots, lengths),
// the device checks too: a mistake there ends the process.
#pragma once

#include "core/kernels/bias_rope.h"
#include "core/kernels/conv2d.h"
#include "core/tensor/tensor.h"

struct CUstream_st;
using cudaStream_t = CUstream_st*;  // as CUDA's headers have it: no need for them here

namespace penstock::cuda {

class Blas;

void LaunchEmbedding(cudaStream_t stream, const Tensor& ids, const Tensor& table,
                     const Tensor& out);
void LaunchRmsNorm(cudaStream_t stream, const Tensor& x, const Tensor& weight, float eps,
                   const Tensor& out);
void LaunchFusedResidualNorm(cudaStream_t stream, const Tensor& residual, const Tensor& x,
                             const Tensor& bias, const Tensor& weight, float eps,
                             const Tensor& out);
void LaunchSwiglu(cudaStream_t stream, const Tensor& gate_up, const Tensor& out);
void LaunchConcatKv(cudaStream_t stream, const Tensor& qkv, const Tensor& kv_slots,
                    const HeadLayout& heads, const Tensor& kv);
void LaunchTopK(cudaStream_t stream, const Tensor& x, const Tensor& values, const Tensor& indices);

// The padded prefill attention, in its order.
void LaunchPaddingOffset(cudaStream_t stream, const Tensor& row_starts, int64_t max_len,
                         const Tensor& offsets);
void LaunchCausalMask(cudaStream_t stream, const Tensor& row_starts, const Tensor& context_lens,
                      int64_t window, const Tensor& mask);
void LaunchRebuildPadding(cudaStream_t stream, const Tensor& ragged, const Tensor& row_starts,
                          const Tensor& padded);
void LaunchRepeatKv(cudaStream_t stream, const Tensor& kv, const Tensor& block_tables,
                    const Tensor& context_lens, const HeadLayout& heads, const Tensor& keys,
                    const Tensor& values);
void LaunchBatchedGemm(Blas& blas, cudaStream_t stream, const Tensor& a, const Tensor& b,
                       bool transpose_b, float alpha, const Tensor& c);
void LaunchMaskScaleSoftmax(cudaStream_t stream, const Tensor& scores, const Tensor& mask,
                            float scale);
void LaunchRemovePadding(cudaStream_t stream, const Tensor& padded, const Tensor& offsets,
                         const Tensor& ragged);

// Library kernels: no model needs them.
void LaunchGemv(cudaStream_t stream, const Tensor& weight, const Tensor& x, const Tensor& y);
void LaunchSgemm(cudaStream_t stream, float alpha, const Tensor& a, const Tensor& b, float beta,
                 const Tensor& c);
void LaunchConv2d(cudaStream_t stream, const Tensor& in, const Tensor& weight, const Tensor& bias,
                  const Conv2dOptions& options, const Tensor& out);

}  // namespace penstock::cuda
