// What swiglu makes of two elements, for its kernel and for the product that ends with it.
#pragma once

namespace penstock::cuda {

__device__ __forceinline__ float Swiglu(float gate, float up) {
  return gate / (1.0f + __expf(-gate)) * up;
}

}  // namespace penstock::cuda
