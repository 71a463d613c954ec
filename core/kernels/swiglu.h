// swiglu: the gated activation of the feed-forward layer (Shazeer, 2020, arXiv:2002.05202).
//   out[t, i] = silu(gate_up[t, i]) * gate_up[t, intermediate + i],  silu(x) = x / (1 + exp(-x))
// gate_up [num_tokens, 2 * intermediate]: the gate's columns, then the up projection's
// out     [num_tokens, intermediate]; both f32, on a GPU f32, f16 or bf16
// Bytes: 3 * element size * num_tokens * intermediate.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

// The plain loop: the reference.
void SwigluReference(ThreadPool& pool, const Tensor& gate_up, const Tensor& out);

// Vector instructions chosen at run time.
void Swiglu(ThreadPool& pool, const Tensor& gate_up, const Tensor& out);

}  // namespace penstock::cpu
