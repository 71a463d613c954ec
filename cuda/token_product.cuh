// A warpgroup's products of tokens with rows of a weight (warpgroup_mma.cuh has what they rest on):
//   c [64 tokens, N rows] += a [64, 16] b [N, 16]^T
// bf16, both in shared memory with k along their rows, N any of the widths below.
#pragma once

#include "cuda/warpgroup_mma.cuh"

namespace penstock::cuda {

// Operand lists, as in warpgroup_mma.cuh.
#define PENSTOCK_C4(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define PENSTOCK_C16(i) PENSTOCK_C4(i), PENSTOCK_C4(i + 4), PENSTOCK_C4(i + 8), PENSTOCK_C4(i + 12)
#define PENSTOCK_R32                                                           \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16," \
  " %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PENSTOCK_C32 PENSTOCK_C16(0), PENSTOCK_C16(16)
#define PENSTOCK_R48                                                             \
  PENSTOCK_R32                                                                   \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46," \
  " %47"
#define PENSTOCK_C48 PENSTOCK_C32, PENSTOCK_C16(32)
#define PENSTOCK_R64                                                             \
  PENSTOCK_R48                                                                   \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62," \
  " %63"
#define PENSTOCK_C64 PENSTOCK_C48, PENSTOCK_C16(48)
#define PENSTOCK_R84                                                             \
  PENSTOCK_R64                                                                   \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78," \
  " %79, %80, %81, %82, %83"
#define PENSTOCK_C84 PENSTOCK_C64, PENSTOCK_C16(64), PENSTOCK_C4(80)
#define PENSTOCK_R96 \
  PENSTOCK_R84       \
  ", %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define PENSTOCK_C96 PENSTOCK_C84, PENSTOCK_C4(84), PENSTOCK_C4(88), PENSTOCK_C4(92)
#define PENSTOCK_R112                                                           \
  PENSTOCK_R96                                                                  \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108," \
  " %109, %110, %111"
#define PENSTOCK_C112 PENSTOCK_C96, PENSTOCK_C16(96)
#define PENSTOCK_R128                                                         \
  PENSTOCK_R112                                                               \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123," \
  " %124, %125, %126, %127"
#define PENSTOCK_C128 PENSTOCK_C112, PENSTOCK_C16(112)

#define PENSTOCK_PRODUCT(n, registers, operands, a_desc, b_desc)                         \
  asm volatile(                                                                          \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                         \
      "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" registers "}, " a_desc \
      ", " b_desc ", p, 1, 1, 0, 0;\n}"                                                  \
      : operands                                                                         \
      : "l"(a), "l"(b))
// a and b by descriptors.
template <int N>
__device__ __forceinline__ void MultiplyTokens(float (&c)[N / 2], uint64_t a, uint64_t b) {
  if constexpr (N == 64) {
    PENSTOCK_PRODUCT("64", PENSTOCK_R32, PENSTOCK_C32, "%32", "%33");
  } else if constexpr (N == 96) {
    PENSTOCK_PRODUCT("96", PENSTOCK_R48, PENSTOCK_C48, "%48", "%49");
  } else if constexpr (N == 128) {
    PENSTOCK_PRODUCT("128", PENSTOCK_R64, PENSTOCK_C64, "%64", "%65");
  } else if constexpr (N == 168) {
    PENSTOCK_PRODUCT("168", PENSTOCK_R84, PENSTOCK_C84, "%84", "%85");
  } else if constexpr (N == 192) {
    PENSTOCK_PRODUCT("192", PENSTOCK_R96, PENSTOCK_C96, "%96", "%97");
  } else if constexpr (N == 224) {
    PENSTOCK_PRODUCT("224", PENSTOCK_R112, PENSTOCK_C112, "%112", "%113");
  } else {
    static_assert(N == 256);
    PENSTOCK_PRODUCT("256", PENSTOCK_R128, PENSTOCK_C128, "%128", "%129");
  }
}
#undef PENSTOCK_PRODUCT
#undef PENSTOCK_R32
#undef PENSTOCK_C32
#undef PENSTOCK_R48
#undef PENSTOCK_C48
#undef PENSTOCK_R64
#undef PENSTOCK_C64
#undef PENSTOCK_R84
#undef PENSTOCK_C84
#undef PENSTOCK_R96
#undef PENSTOCK_C96
#undef PENSTOCK_R112
#undef PENSTOCK_C112
#undef PENSTOCK_R128
#undef PENSTOCK_C128
#undef PENSTOCK_C16
#undef PENSTOCK_C4

}  // namespace penstock::cuda
