// fused_layer: what a decoder layer does behind its attention, up to the next one's, for a backend
// that has it as one kernel.
//   residual += mixed output^T
//   gated     = swiglu(norm(residual, gain) gate_up^T)
//   residual += gated down^T
//   normed    = norm(residual, next_gain)      if there is a next_gain
//   out       = normed next^T                  if there is a next
// norm is rms_norm's. Activations and weights have one type, residual is f32. What is in `normed`
// without a next_gain, and in `gated`, is undefined afterwards.
#pragma once

#include "core/tensor/tensor.h"

namespace penstock {

struct FusedLayerArgs {
  Tensor mixed;      // [num_tokens, q], of the attention
  Tensor output;     // [hidden, q]
  Tensor residual;   // [num_tokens, hidden] f32
  Tensor gain;       // [hidden]
  Tensor gate_up;    // [gate's rows, then up's: 2 * intermediate, hidden]
  Tensor down;       // [hidden, intermediate]
  Tensor next_gain;  // [hidden], of the next layer or the model; may be empty
  Tensor next;       // [q + k + v, hidden], the next layer's; may be empty
  float eps = 0;     // of both norms
  Tensor gated;      // [num_tokens, intermediate], workspace
  Tensor normed;     // [num_tokens, hidden]
  Tensor out;        // [num_tokens, q + k + v]
};

}  // namespace penstock
