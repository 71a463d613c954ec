// What the CUDA benchmarks share: device memory with random contents, times of replayed graphs, the
// ceilings that a share is a share of. A program's own; one thread. A CUDA error ends the program.
#pragma once

#include <functional>

#include "core/tensor/tensor.h"
#include "cuda/stream.h"

namespace penstock::bench {

// Device memory that frees itself, every byte 0xff: NaN in each float type.
Tensor Uninitialized(DataType type, const Shape& shape);

// Normal-looking values of that size and either sign.
Tensor Random(DataType type, const Shape& shape, uint32_t seed, float scale = 1.0F);

// Of one replay of a graph that holds what `enqueue` puts into the stream: the median, in
// microseconds.
double GraphMicroseconds(const CudaStream& stream, const std::function<void()>& enqueue,
                         int runs = 15);

// ||out - x weight^T|| / ||x weight^T|| of bf16 tensors, the product in float64.
double LinearError(const Tensor& x, const Tensor& weight, const Tensor& out);

void PrintDevice();

}  // namespace penstock::bench
