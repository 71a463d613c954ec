// layer_tail: what stands between the attentions of two layers, one kernel behind the other:
//   delta = linear(mixed, output)              fused_residual_norm(residual, delta, post_gain) ->
//   norm gated = swiglu(linear(norm, gate_up))      delta = linear(gated, down)
//   fused_residual_norm(residual, delta, next_gain) -> norm      qkv = linear(norm, next_qkv)
// It is no stem of its own: a backend may run it as one kernel, with the same bits
// (cuda/layer_tail.h).
#pragma once

#include "core/tensor/tensor.h"

namespace penstock {

struct LayerTailArgs {
  const Tensor& mixed;           // [num_tokens, q size], attention's result
  const Tensor& output_weight;   // [hidden, q size]
  const Tensor& gate_up_weight;  // [2 * intermediate, hidden]
  const Tensor& down_weight;     // [hidden, intermediate]
  const Tensor& next_qkv;        // [width, hidden], the next layer's weight; empty: no such product
  const Tensor& post_gain;       // [hidden], of the norm before gate and up
  const Tensor& next_gain;       // [hidden], of the norm behind the layer
  float eps;
  const Tensor& residual;  // [num_tokens, hidden] f32
  const Tensor& qkv;       // [num_tokens, width]; not touched where next_qkv is empty
  const Tensor& norm;      // [num_tokens, hidden], at the end the last norm
  // Between the kernels; undefined at the end.
  const Tensor& delta;    // [num_tokens, hidden]
  const Tensor& gate_up;  // [num_tokens, 2 * intermediate]
  const Tensor& gated;    // [num_tokens, intermediate]
};

}  // namespace penstock
