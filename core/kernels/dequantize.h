// dequantize: a weight's elements, in whatever type a file has them, as a type to compute in.
//   out[place(first + i)] = the value of stored element i (core/tensor/data_type.h), rounded to
//   nearest even; place() moves elements with their rows (core/tensor/row_order.h)
// stored any type of a weight (all but the integers), dense: any whole number of blocks, which are
//        elements [first, first + count) of the weight as the file has it; first a multiple of 8
// out    f32, f16 or bf16, the whole weight, dense, at a multiple of 32 bytes; a matrix if `order`
//        moves rows. Elements that are not stored's stay.
// A value is computed in f32 by the operations of core/tensor/dequantize.cc, each rounded once, so
// every backend gives the same bits; of a NaN only that it is one.
// Bytes: both tensors', once: memory bounds it, or the bus that `stored` comes by.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/row_order.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void Dequantize(ThreadPool& pool, const Tensor& stored, int64_t first, const RowOrder& order,
                const Tensor& out);

}  // namespace penstock::cpu
