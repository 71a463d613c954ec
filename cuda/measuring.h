// What measures kernels needs beside them: contents to measure with, and how wrong a product is.
// Work is enqueued in the stream; what returns a number has waited for it. A CUDA error ends the
// process.
#pragma once

#include <cstdint>

#include "core/tensor/tensor.h"

struct CUstream_st;

namespace penstock::cuda {

// Small normal-looking values of either sign: zeros would draw less power, and be faster. f32, f16
// or bf16, dense.
void FillRandom(CUstream_st* stream, const Tensor& tensor, uint32_t seed, float scale = 1.0F);

// ||out - x weight^T|| / ||x weight^T||, the product in float64, over `rows` tokens at most that
// are spread over all. x [tokens, in], weight [out, in] of one type, out of it or f32; all dense.
double ProductError(CUstream_st* stream, const Tensor& x, const Tensor& weight, const Tensor& out,
                    int64_t rows);

// ||a - b|| / ||b||, of one type and shape, dense.
double Difference(CUstream_st* stream, const Tensor& a, const Tensor& b);

}  // namespace penstock::cuda
