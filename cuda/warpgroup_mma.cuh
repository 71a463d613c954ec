// Hopper's warpgroup products (PTX ISA: wgmma): c [64, N] += a [64, 16] b [16, N] of f16 or bf16,
// by 128 threads, asynchronously. a lies in shared memory or in registers, b in shared memory.
//
// In shared memory operands lie as the tensor copies put them (SwizzledTile below). c is spread as
// MultiplyAdd's (tensor_core.cuh): warp w has the rows 16 w on, and c[4 i] to c[4 i + 3] are the
// columns 8 i on; a in registers as MultiplyAdd's a.
#pragma once

#include <type_traits>

#include "cuda/tensor_core.cuh"

namespace penstock::cuda {

// A tile [rows, D] lies as D / kColumns slabs [rows, kColumns], rows of 128 or 64 bytes, whose
// 16-byte units are permuted in each eight rows so that both a row and a column of units meet all
// banks.
template <int D>
struct SwizzledTile {
  static constexpr int kColumns = D % 64 == 0 ? 64 : 32;
  static constexpr int kRowBytes = kColumns * 2;
  static constexpr int kSlabs = D / kColumns;
  static constexpr uint64_t kMode = kColumns == 64 ? 1 : 2;

  // Where 16 bytes, unit `unit` of a row of a slab, are.
  __device__ static __forceinline__ int UnitOffset(int row, int unit) {
    const int at = row * kRowBytes + unit * 16;
    return at ^ (at >> 7 & (kColumns == 64 ? 7 : 3)) << 4;
  }
  // The descriptor of an operand: where it begins, and the bytes between repetitions of the
  // swizzled pattern along the two dimensions.
  __device__ static __forceinline__ uint64_t Descriptor(uint32_t address, unsigned leading,
                                                        unsigned stride) {
    return uint64_t{address >> 4 & 0x3fff} | uint64_t{leading >> 4} << 16 |
           uint64_t{stride >> 4} << 32 | kMode << 62;
  }
  // k along the rows' elements, which lie behind each other: for a and for b given as [N, k].
  __device__ static __forceinline__ uint64_t AlongRows(uint32_t address) {
    return Descriptor(address, 16, 8 * kRowBytes);
  }
  // k across the rows: for b given as [k, N], slabs of N `slab_bytes` apart.
  __device__ static __forceinline__ uint64_t AcrossRows(uint32_t address, unsigned slab_bytes) {
    return Descriptor(address, slab_bytes, 8 * kRowBytes);
  }
};

// Registers and shared memory are as the warpgroup's products may see them.
__device__ __forceinline__ void FenceProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most so many groups of products are under way.
template <int kGroups>
__device__ __forceinline__ void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}
// Keeps the compiler from moving uses of registers that products write across this point.
template <int N>
__device__ __forceinline__ void HoldRegisters(float (&c)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

// Has the assembler compute a value that is not negative before what follows in memory's order, and
// not behind the next wait for products, where it would put it: the store, which never happens, is
// what keeps it. (Measured by where the instructions stand: 11 of 64 powers of two before the wait
// without this, all with it.)
__device__ __forceinline__ void ComputeBefore(float value, float* never_written) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.lt.f32 p, %0, 0f00000000;\n@p st.volatile.shared.f32 [%1], %0;\n}" ::
          "f"(value),
      "r"(SharedAddress(never_written))
      : "memory");
}

// Operand lists: eight registers of c a line.
#define PENSTOCK_C8(i)                                                                        \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
      "+f"(c[i + 6]), "+f"(c[i + 7])
#define PENSTOCK_C32 PENSTOCK_C8(0), PENSTOCK_C8(8), PENSTOCK_C8(16), PENSTOCK_C8(24)
#define PENSTOCK_C48 PENSTOCK_C32, PENSTOCK_C8(32), PENSTOCK_C8(40)
#define PENSTOCK_C64 PENSTOCK_C48, PENSTOCK_C8(48), PENSTOCK_C8(56)
#define PENSTOCK_R32                                                                           \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PENSTOCK_R48                                                         \
  PENSTOCK_R32                                                               \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, " \
  "%46, %47"
#define PENSTOCK_R64                                                         \
  PENSTOCK_R48                                                               \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63"

// c [64, 128] = a b^T, or += if `add`: a and b by descriptors, k along the rows of both.
#define PENSTOCK_PRODUCT(type)                                                       \
  asm volatile(                                                                      \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                   \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" PENSTOCK_R64 \
      "}, %64, "                                                                     \
      "%65, p, 1, 1, 0, 0;\n}"                                                       \
      : PENSTOCK_C64                                                                 \
      : "l"(a), "l"(b), "r"(static_cast<int>(add)))
template <typename T>
__device__ __forceinline__ void MultiplyRows(float (&c)[64], uint64_t a, uint64_t b, bool add) {
  if constexpr (std::is_same_v<T, __half>) {
    PENSTOCK_PRODUCT("f16");
  } else {
    PENSTOCK_PRODUCT("bf16");
  }
}
#undef PENSTOCK_PRODUCT

// c [64, N] += a b, a in registers, b by a descriptor with k across its rows.
#define PENSTOCK_PRODUCT(n, type, registers, operands, a0, a1, a2, a3, desc)                  \
  asm volatile(                                                                               \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                              \
      "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" registers "}, {" a0 \
      ", " a1 ", " a2 ", " a3 "}, " desc ", p, 1, 1, 1;\n}"                                   \
      : operands                                                                              \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define PENSTOCK_PRODUCTS(type)                                                                   \
  if constexpr (N == 128) {                                                                       \
    PENSTOCK_PRODUCT("128", type, PENSTOCK_R64, PENSTOCK_C64, "%64", "%65", "%66", "%67", "%68"); \
  } else if constexpr (N == 96) {                                                                 \
    PENSTOCK_PRODUCT("96", type, PENSTOCK_R48, PENSTOCK_C48, "%48", "%49", "%50", "%51", "%52");  \
  } else {                                                                                        \
    static_assert(N == 64);                                                                       \
    PENSTOCK_PRODUCT("64", type, PENSTOCK_R32, PENSTOCK_C32, "%32", "%33", "%34", "%35", "%36");  \
  }
template <typename T, int N>
__device__ __forceinline__ void MultiplyAcross(float (&c)[N / 2], const uint32_t (&a)[4],
                                               uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    PENSTOCK_PRODUCTS("f16")
  } else {
    PENSTOCK_PRODUCTS("bf16")
  }
}
#undef PENSTOCK_PRODUCTS
#undef PENSTOCK_PRODUCT
#undef PENSTOCK_R32
#undef PENSTOCK_R48
#undef PENSTOCK_R64
#undef PENSTOCK_C8
#undef PENSTOCK_C32
#undef PENSTOCK_C48
#undef PENSTOCK_C64

}  // namespace penstock::cuda
