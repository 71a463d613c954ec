// A warpgroup's products of tokens with rows of a weight (warpgroup_mma.cuh has what they rest on):
//   c [64 tokens, N rows] += a [64, 16] b [N, 16]^T
// bf16, both in shared memory with k along their rows, by descriptors; N is one of the widths
// below.
#pragma once

#include "cuda/warpgroup_mma.cuh"

namespace penstock::cuda {

// Operand lists, as in warpgroup_mma.cuh.
#define PENSTOCK_C8(i)                                                                        \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
      "+f"(c[i + 6]), "+f"(c[i + 7])
#define PENSTOCK_C32 PENSTOCK_C8(0), PENSTOCK_C8(8), PENSTOCK_C8(16), PENSTOCK_C8(24)
#define PENSTOCK_R32                                                                 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PENSTOCK_C40 PENSTOCK_C32, PENSTOCK_C8(32)
#define PENSTOCK_R40 \
  PENSTOCK_R32       \
  ", %32, %33, %34, %35, %36, %37, %38, %39"
#define PENSTOCK_C48 PENSTOCK_C40, PENSTOCK_C8(40)
#define PENSTOCK_R48 \
  PENSTOCK_R40       \
  ", %40, %41, %42, %43, %44, %45, %46, %47"
#define PENSTOCK_C56 PENSTOCK_C48, PENSTOCK_C8(48)
#define PENSTOCK_R56 \
  PENSTOCK_R48       \
  ", %48, %49, %50, %51, %52, %53, %54, %55"
#define PENSTOCK_C88 \
  PENSTOCK_C56, PENSTOCK_C8(56), PENSTOCK_C8(64), PENSTOCK_C8(72), PENSTOCK_C8(80)
#define PENSTOCK_R88                                                                 \
  PENSTOCK_R56                                                                       \
  ", %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71" \
  ", %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87"
#define PENSTOCK_PRODUCT(n, registers, operands, a_desc, b_desc)                         \
  asm volatile(                                                                          \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                         \
      "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" registers "}, " a_desc \
      ", " b_desc ", p, 1, 1, 0, 0;\n}"                                                  \
      : operands                                                                         \
      : "l"(a), "l"(b))
template <int N>
__device__ __forceinline__ void MultiplyTokens(float (&c)[N / 2], uint64_t a, uint64_t b) {
  if constexpr (N == 64) {
    PENSTOCK_PRODUCT("64", PENSTOCK_R32, PENSTOCK_C32, "%32", "%33");
  } else if constexpr (N == 80) {
    PENSTOCK_PRODUCT("80", PENSTOCK_R40, PENSTOCK_C40, "%40", "%41");
  } else if constexpr (N == 96) {
    PENSTOCK_PRODUCT("96", PENSTOCK_R48, PENSTOCK_C48, "%48", "%49");
  } else if constexpr (N == 112) {
    PENSTOCK_PRODUCT("112", PENSTOCK_R56, PENSTOCK_C56, "%56", "%57");
  } else {
    static_assert(N == 176);
    PENSTOCK_PRODUCT("176", PENSTOCK_R88, PENSTOCK_C88, "%88", "%89");
  }
}
#undef PENSTOCK_PRODUCT
#undef PENSTOCK_R88
#undef PENSTOCK_C88
#undef PENSTOCK_R56
#undef PENSTOCK_C56
#undef PENSTOCK_R48
#undef PENSTOCK_C48
#undef PENSTOCK_R40
#undef PENSTOCK_C40
#undef PENSTOCK_R32
#undef PENSTOCK_C32
#undef PENSTOCK_C8

}  // namespace penstock::cuda
