// A weight source without a file: seeded values for benchmarks and tests. The value of an element
// depends only on the seed, the tensor's name and its place, so a model is the same however its
// layers are divided over stages.
#pragma once

#include <cstdint>
#include <memory>

#include "core/io/weight_source.h"
#include "core/tensor/allocator.h"

namespace penstock {

// f32 tensors, uniform in +-sqrt(3 / columns) so that activations keep their size; norms are 1.
// The allocator must outlive every tensor.
std::unique_ptr<WeightSource> MakeDummyWeightSource(uint64_t seed, bool tied_embeddings,
                                                    BaseAllocator& allocator);

}  // namespace penstock
