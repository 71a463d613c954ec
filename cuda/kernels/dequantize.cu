#include "core/kernels/dequantize.h"
#include "core/tensor/dequantize.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

constexpr int kElements = 8;  // a thread's, all of one block

// Elements of a plain type behind each other, as if they were a block.
template <typename T>
struct Plain {
  T values[kElements];
};

template <typename Block>
constexpr int kBlockElements = kElements;
template <>
constexpr int kBlockElements<BlockQ4_0> = 32;
template <>
constexpr int kBlockElements<BlockQ4_1> = 32;
template <>
constexpr int kBlockElements<BlockQ5_0> = 32;
template <>
constexpr int kBlockElements<BlockQ5_1> = 32;
template <>
constexpr int kBlockElements<BlockQ8_0> = 32;
template <>
constexpr int kBlockElements<BlockQ4_K> = 256;
template <>
constexpr int kBlockElements<BlockQ5_K> = 256;
template <>
constexpr int kBlockElements<BlockQ6_K> = 256;

__device__ __forceinline__ float FromHalf(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

// Element i of a block. The intrinsics keep the compiler from fusing what the host rounds apart.
template <typename T>
__device__ __forceinline__ float Value(const Plain<T>& block, int i) {
  return ToFloat(block.values[i]);
}

__device__ __forceinline__ int Nibble(const uint8_t (&quants)[16], int i) {
  return quants[i % 16] >> (i / 16 * 4) & 15;
}

__device__ __forceinline__ int FifthBit(const uint8_t (&high)[4], int i) {
  return (high[i / 8] >> (i % 8) & 1) << 4;
}

__device__ __forceinline__ float Value(const BlockQ4_0& block, int i) {
  return __fmul_rn(FromHalf(block.scale), static_cast<float>(Nibble(block.quants, i) - 8));
}

__device__ __forceinline__ float Value(const BlockQ4_1& block, int i) {
  return __fmaf_rn(FromHalf(block.scale), static_cast<float>(Nibble(block.quants, i)),
                   FromHalf(block.minimum));
}

__device__ __forceinline__ float Value(const BlockQ5_0& block, int i) {
  const int quant = Nibble(block.quants, i) | FifthBit(block.high, i);
  return __fmul_rn(FromHalf(block.scale), static_cast<float>(quant - 16));
}

__device__ __forceinline__ float Value(const BlockQ5_1& block, int i) {
  const int quant = Nibble(block.quants, i) | FifthBit(block.high, i);
  return __fmaf_rn(FromHalf(block.scale), static_cast<float>(quant), FromHalf(block.minimum));
}

__device__ __forceinline__ float Value(const BlockQ8_0& block, int i) {
  return __fmul_rn(FromHalf(block.scale), static_cast<float>(block.quants[i]));
}

// Of a part of 32: scale * quant - minimum, whose factors are 6 bits each. The first four parts
// have them in a byte, the upper two bits of the last four lie above those.
template <typename Block>
__device__ __forceinline__ float OfPart(const Block& block, int part, int quant) {
  int scale = block.scales[part] & 63;
  int minimum = block.scales[part + 4] & 63;
  if (part >= 4) {
    scale = (block.scales[part + 4] & 15) | (block.scales[part - 4] >> 6 << 4);
    minimum = (block.scales[part + 4] >> 4) | (block.scales[part] >> 6 << 4);
  }
  const float of_scale = __fmul_rn(FromHalf(block.scale), static_cast<float>(scale));
  const float of_minimum = __fmul_rn(FromHalf(block.minimum), static_cast<float>(minimum));
  return __fsub_rn(__fmul_rn(of_scale, static_cast<float>(quant)), of_minimum);
}

__device__ __forceinline__ float Value(const BlockQ4_K& block, int i) {
  const int part = i / 32;
  return OfPart(block, part, block.quants[part / 2 * 32 + i % 32] >> (part % 2 * 4) & 15);
}

__device__ __forceinline__ float Value(const BlockQ5_K& block, int i) {
  const int part = i / 32;
  const int low = block.quants[part / 2 * 32 + i % 32] >> (part % 2 * 4) & 15;
  return OfPart(block, part, low | (block.high[i % 32] >> part & 1) << 4);
}

__device__ __forceinline__ float Value(const BlockQ6_K& block, int i) {
  const int half = i / 128;
  const int quarter = i % 128 / 32;
  const int low = block.low[half * 64 + quarter % 2 * 32 + i % 32] >> (quarter / 2 * 4) & 15;
  const int high = block.high[half * 32 + i % 32] >> (quarter * 2) & 3;
  const float of_part = __fmul_rn(FromHalf(block.scale), static_cast<float>(block.scales[i / 16]));
  return __fmul_rn(of_part, static_cast<float>((low | high << 4) - 32));
}

// RowOrder, in elements.
struct Places {
  int64_t moved;  // these first ones go where their rows belong
  int64_t columns;
  int64_t head_dim;

  __device__ __forceinline__ int64_t operator()(int64_t element) const {
    if (element >= moved) return element;
    const int64_t row = element / columns;
    const int64_t i = row % head_dim;
    return element + (i / 2 + i % 2 * (head_dim / 2) - i) * columns;
  }
};

// `out` is the whole weight's, whose elements from `first` on are stored.
template <typename Block, typename T>
__global__ void DequantizeKernel(const Block* blocks, int64_t count, int64_t first, Places places,
                                 T* out) {
  LetNextBegin();
  const int64_t mine = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kElements;
  if (mine >= count) return;
  WaitForInputs();
  const Block& block = blocks[mine / kBlockElements<Block>];
  const int at = static_cast<int>(mine % kBlockElements<Block>);
  // Of plain types only: an end, or rows that end anywhere.
  if (count - mine < kElements || places.columns % kElements != 0) {
    for (int i = 0; i < min(count - mine, int64_t{kElements}); ++i) {
      out[places(first + mine + i)] = FromFloat<T>(Value(block, at + i));
    }
    return;
  }
  Pack<T, kElements> values;
#pragma unroll
  for (int i = 0; i < kElements; ++i) values.at[i] = FromFloat<T>(Value(block, at + i));
  *reinterpret_cast<Pack<T, kElements>*>(out + places(first + mine)) = values;
}

// Calls body(Block()) with the block of a type.
template <typename Body>
void ForBlock(DataType type, const Body& body) {
  switch (type) {
    case DataType::kF32:
      return body(Plain<float>());
    case DataType::kF16:
      return body(Plain<__half>());
    case DataType::kBF16:
      return body(Plain<__nv_bfloat16>());
    case DataType::kQ4_0:
      return body(BlockQ4_0());
    case DataType::kQ4_1:
      return body(BlockQ4_1());
    case DataType::kQ5_0:
      return body(BlockQ5_0());
    case DataType::kQ5_1:
      return body(BlockQ5_1());
    case DataType::kQ8_0:
      return body(BlockQ8_0());
    case DataType::kQ4_K:
      return body(BlockQ4_K());
    case DataType::kQ5_K:
      return body(BlockQ5_K());
    case DataType::kQ6_K:
      return body(BlockQ6_K());
    case DataType::kI32:
    case DataType::kI64:
    case DataType::kU8:
      break;
  }
  PENSTOCK_CHECK(!"a weight is floating point or quantized");
}

}  // namespace

void LaunchDequantize(cudaStream_t stream, const Tensor& stored, int64_t first,
                      const RowOrder& order, const Tensor& out) {
  const int64_t count = stored.num_elements();
  PENSTOCK_CHECK(first >= 0 && first % kElements == 0 && count <= out.num_elements() - first);
  PENSTOCK_CHECK(stored.is_contiguous() && out.is_contiguous());
  PENSTOCK_CHECK(stored.device() == Device::kCuda);
  PENSTOCK_CHECK_EQ(reinterpret_cast<uintptr_t>(out.raw()) % 32, 0u);
  Places places = {0, kElements, 1};
  if (order.rows > 0) places = {order.rows * out.dim(1), out.dim(1), order.head_dim};
  ForBlock(stored.type(), [&](auto block) {
    using Block = decltype(block);
    ForElementType(out.type(), [&](auto element) {
      using T = decltype(element);
      Launch(stream, {dim3(Blocks(count, kThreads * kElements)), dim3(kThreads)},
             DequantizeKernel<Block, T>, static_cast<const Block*>(stored.raw()), count, first,
             places, Elements<T>(out));
    });
  });
}

}  // namespace penstock::cuda
