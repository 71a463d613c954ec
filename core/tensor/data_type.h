// Element types: plain ones, and the block types of GGUF files, where a run of `block` elements
// along the innermost dimension shares its scales and takes `block_bytes` bytes.
// Source of the block layouts: the GGUF specification and ggml's documentation of Q4_1 and Q8_0.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace penstock {

enum class DataType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kI32,
  kI64,
  kU8,
  kQ4_1,  // 32 elements: f16 scale d, f16 minimum m, 32 x 4-bit q; value = d * q + m
  kQ8_0,  // 32 elements: f16 scale d, 32 x int8 q; value = d * q
};

struct DataTypeInfo {
  std::string_view name;
  int64_t block;        // elements a block; 1 for plain types
  int64_t block_bytes;  // bytes a block
};

constexpr DataTypeInfo Info(DataType type) {
  switch (type) {
    case DataType::kF32:
      return {"f32", 1, 4};
    case DataType::kF16:
      return {"f16", 1, 2};
    case DataType::kBF16:
      return {"bf16", 1, 2};
    case DataType::kI32:
      return {"i32", 1, 4};
    case DataType::kI64:
      return {"i64", 1, 8};
    case DataType::kU8:
      return {"u8", 1, 1};
    case DataType::kQ4_1:
      return {"q4_1", 32, 20};
    case DataType::kQ8_0:
      return {"q8_0", 32, 34};
  }
  return {"unknown", 1, 1};
}

constexpr std::string_view Name(DataType type) { return Info(type).name; }

// The C++ type of a plain element type: DataTypeOf<float>() == DataType::kF32.
template <typename T>
constexpr DataType DataTypeOf();
template <>
constexpr DataType DataTypeOf<float>() {
  return DataType::kF32;
}
template <>
constexpr DataType DataTypeOf<int32_t>() {
  return DataType::kI32;
}
template <>
constexpr DataType DataTypeOf<int64_t>() {
  return DataType::kI64;
}
template <>
constexpr DataType DataTypeOf<uint8_t>() {
  return DataType::kU8;
}

// IEEE 754 binary16 to binary32, exact. Inline: every block of a quantized row needs one or two.
inline float HalfToFloat(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  if (magnitude >= 0x0f800000) {  // infinity or NaN
    return std::bit_cast<float>(sign | 0x70000000 | magnitude);
  }
  // The exponent's bias differs by 112; a multiplication makes subnormals right as well.
  const float value = std::bit_cast<float>(magnitude) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}
// Rounded to nearest even; overflow becomes infinity.
uint16_t FloatToHalf(float value);

// The blocks as they lie in the file.
struct BlockQ4_1 {
  uint16_t scale;      // f16
  uint16_t minimum;    // f16
  uint8_t quants[16];  // element i: low nibble of quants[i]; element i + 16: its high nibble
};
static_assert(sizeof(BlockQ4_1) == 20);

struct BlockQ8_0 {
  uint16_t scale;  // f16
  int8_t quants[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

// Writes `count` float32 values of a row in any of the types above that a weight may have
// (f32, f16, bf16, q4_1, q8_0). REQUIRES: count is a multiple of the block.
void Dequantize(DataType type, const void* row, int64_t count, float* out);

}  // namespace penstock
