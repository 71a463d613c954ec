// Joints: a product that is added to the residual, the norm of the sum, the product that reads the
// norm (AddNormArgs, core/kernels/ops.h), in fewer kernels. Launchers by the rules of
// cuda/kernels/launchers.h. Each does nothing and returns false where there are no such kernels for
// these tensors, or for this order of sums: then those of the stems do it.
//
// Of 17 to 64 tokens the norm is left to the products on both sides (deferred_norm.h); of 129 to
// 256 a product of a long k comes in halves, which the norm adds. Neither has the bits of the
// kernels apart.
#pragma once

#include "core/kernels/ops.h"
#include "cuda/sum_order.h"

struct CUstream_st;

namespace penstock::cuda {

class Blas;

// Bytes of the `workspace` below, f32; shape of `zeros`, bf16.
int64_t AddNormWorkspace();
Shape AddNormZeros();

bool LaunchAddNorm(Blas& blas, CUstream_st* stream, const AddNormArgs& add);
bool LaunchAddNormLinear(SumOrder order, CUstream_st* stream, const AddNormArgs& add,
                         const Tensor& workspace, const Tensor& weight, const Tensor& out);
bool LaunchAddNormGatedLinear(SumOrder order, CUstream_st* stream, const AddNormArgs& add,
                              const Tensor& workspace, const Tensor& weight, const Tensor& out);

// AddNormLinear in two, for two stages, with the bits of LaunchAddNormLinear, or of LaunchAddNorm
// and what follows it. The second is the same kernels, with nothing added: a product of zeros.
bool LaunchAddOfNormLinear(Blas& blas, CUstream_st* stream, const AddNormArgs& add,
                           const Tensor& workspace, const Tensor& weight);
bool LaunchNormLinearOfAdd(SumOrder order, CUstream_st* stream, const AddNormArgs& add,
                           const Tensor& workspace, const Tensor& zeros, const Tensor& weight,
                           const Tensor& out);

}  // namespace penstock::cuda
