// dequantize: a weight's elements, in whatever type a file has them, as a type to compute in.
//   out[i] = the value of element i (core/tensor/data_type.h), rounded to nearest even
// stored any type of a weight (all but the integers), dense: any whole number of blocks
// out    f32, f16 or bf16, as many elements, dense, at a multiple of 32 bytes
// A value is computed in f32 by the operations of core/tensor/dequantize.cc, each rounded once, so
// every backend gives the same bits; of a NaN only that it is one.
// Bytes: both tensors', once: memory bounds it, or the bus that `stored` comes by.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void Dequantize(ThreadPool& pool, const Tensor& stored, const Tensor& out);

}  // namespace penstock::cpu
