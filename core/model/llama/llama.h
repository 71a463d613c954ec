// Llama: the forward pass of the Llama family (Touvron et al., 2023, arXiv:2302.13971): pre-norm
// decoder layers of rotary grouped-query attention and SwiGLU.
#pragma once

#include <memory>

#include "core/kernels/ops.h"
#include "core/model/llama/llama_weight.h"
#include "core/model/model.h"
#include "core/model/model_limits.h"

namespace penstock {

// Takes loaded weights of a slice of layers, not empty. A slice without the first layer takes rows
// of the residual stream, one without the last leaves them; the hand-over changes no bit of an
// answer. `ops` and `allocator` must outlive the model. `residual` [max_tokens, hidden] f32
// is where the residual stream is; empty: made here. Errors: the allocator's,
// and those of PaddedAttention::Make if the limits ask for it.
absl::StatusOr<std::unique_ptr<Model>> MakeLlama(const ModelConfig& config, LlamaWeight weight,
                                                 const ModelLimits& limits, Ops& ops,
                                                 BaseAllocator& allocator,
                                                 Tensor residual = Tensor());

}  // namespace penstock
