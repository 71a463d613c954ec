// The rotation of RoPE on a GPU, for whoever turns: the roundings are spelt out, so that all of
// them give the same bits.
#pragma once

namespace penstock::cuda {

// (a, b) -> (a cos - b sin, b cos + a sin).
__device__ __forceinline__ void Turn(float& a, float& b, float cosine, float sine) {
  const float turned = __fmaf_rn(a, cosine, -__fmul_rn(b, sine));
  b = __fmaf_rn(a, sine, __fmul_rn(b, cosine));
  a = turned;
}

}  // namespace penstock::cuda
