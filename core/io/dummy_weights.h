// A weight source without a file: seeded values for benchmarks and tests. The value of an element
// depends only on the seed, the tensor's name and its place, so a model is the same however its
// layers are divided over stages.
#pragma once

#include <cstdint>
#include <memory>

#include "core/io/weight_source.h"
#include "core/model/model_config.h"
#include "core/tensor/allocator.h"

namespace penstock {

// The tensors of a model of that configuration. Matrices are of `type` (f32 or bf16), uniform in
// +-sqrt(3 / columns) so that activations keep their size; norms are 1 and biases uniform in +-1/8,
// both f32. The allocator must outlive every tensor.
// REQUIRES: `config` is valid.
std::unique_ptr<WeightSource> MakeDummyWeightSource(uint64_t seed, const ModelConfig& config,
                                                    DataType type, BaseAllocator& allocator);

}  // namespace penstock
