// Element types: plain ones, and the block types of GGUF files, where a run of `block` elements
// along the innermost dimension shares its scales and takes `block_bytes` bytes.
// Source of the block layouts: the GGUF specification and ggml's documentation of its types; the
// oracle is the Python package gguf (tests/golden/make_quantization.py).
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

namespace penstock {

enum class DataType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kI32,
  kI64,
  kU8,
  // Blocks of 32: f16 scale d, an f16 minimum m in the _1 types; value = d * (q - offset) or
  // d * q + m.
  kQ4_0,  // 4-bit q, offset 8
  kQ4_1,  // 4-bit q, minimum
  kQ5_0,  // 5-bit q, offset 16
  kQ5_1,  // 5-bit q, minimum
  kQ8_0,  // int8 q
  // Blocks of 256 whose parts have 6- or 8-bit scales of their own.
  kQ4_K,  // 8 parts of 32: value = d * scale * q - dmin * minimum
  kQ5_K,  // as kQ4_K, 5-bit q
  kQ6_K,  // 16 parts of 16: value = d * scale * (q - 32), 6-bit q
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
    case DataType::kQ4_0:
      return {"q4_0", 32, 18};
    case DataType::kQ4_1:
      return {"q4_1", 32, 20};
    case DataType::kQ5_0:
      return {"q5_0", 32, 22};
    case DataType::kQ5_1:
      return {"q5_1", 32, 24};
    case DataType::kQ8_0:
      return {"q8_0", 32, 34};
    case DataType::kQ4_K:
      return {"q4_k", 256, 144};
    case DataType::kQ5_K:
      return {"q5_k", 256, 176};
    case DataType::kQ6_K:
      return {"q6_k", 256, 210};
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
uint16_t FloatToBFloat16(float value);

// The type that activations may have by its name: f32, f16 or bf16.
std::optional<DataType> PrecisionByName(std::string_view name);

}  // namespace penstock
