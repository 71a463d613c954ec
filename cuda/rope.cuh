// What bias_rope makes of two elements that turn together, for its kernel and for the attention
// that turns queries and keys itself.
#pragma once

namespace penstock::cuda {

// (a, b) turned by an angle. Where it is rounded is said here, not left to the compiler, which
// would choose anew for each kernel.
__device__ __forceinline__ void Turn(float& a, float& b, float cosine, float sine) {
  const float turned = __fmaf_rn(a, cosine, -__fmul_rn(b, sine));
  b = __fmaf_rn(a, sine, __fmul_rn(b, cosine));
  a = turned;
}

}  // namespace penstock::cuda
