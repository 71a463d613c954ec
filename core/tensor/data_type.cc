#include "core/tensor/data_type.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "core/base/check.h"

namespace penstock {

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) {  // subnormal: in units of 2^-24, rounded to even by nearbyint
    return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
  }
  const uint32_t rounded = (bits & 0x7fffffff) + 0xfff + ((bits >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
}

namespace {

void DequantizeQ4_1(const BlockQ4_1* blocks, int64_t count, float* out) {
  for (int64_t b = 0; b < count / 32; ++b) {
    const float scale = HalfToFloat(blocks[b].scale);
    const float minimum = HalfToFloat(blocks[b].minimum);
    for (int i = 0; i < 16; ++i) {
      const uint8_t pair = blocks[b].quants[i];
      out[b * 32 + i] = std::fma(scale, static_cast<float>(pair & 15), minimum);
      out[b * 32 + 16 + i] = std::fma(scale, static_cast<float>(pair >> 4), minimum);
    }
  }
}

void DequantizeQ8_0(const BlockQ8_0* blocks, int64_t count, float* out) {
  for (int64_t b = 0; b < count / 32; ++b) {
    const float scale = HalfToFloat(blocks[b].scale);
    for (int i = 0; i < 32; ++i) {
      out[b * 32 + i] = scale * static_cast<float>(blocks[b].quants[i]);
    }
  }
}

}  // namespace

void Dequantize(DataType type, const void* row, int64_t count, float* out) {
  PENSTOCK_CHECK_EQ(count % Info(type).block, 0);
  switch (type) {
    case DataType::kF32:
      std::memcpy(out, row, static_cast<size_t>(count) * sizeof(float));
      return;
    case DataType::kF16: {
      const auto* half = static_cast<const uint16_t*>(row);
      for (int64_t i = 0; i < count; ++i) out[i] = HalfToFloat(half[i]);
      return;
    }
    case DataType::kBF16: {
      const auto* bf16 = static_cast<const uint16_t*>(row);
      for (int64_t i = 0; i < count; ++i) {
        out[i] = std::bit_cast<float>(static_cast<uint32_t>(bf16[i]) << 16);
      }
      return;
    }
    case DataType::kQ4_1:
      return DequantizeQ4_1(static_cast<const BlockQ4_1*>(row), count, out);
    case DataType::kQ8_0:
      return DequantizeQ8_0(static_cast<const BlockQ8_0*>(row), count, out);
    case DataType::kI32:
    case DataType::kI64:
    case DataType::kU8:
      break;
  }
  PENSTOCK_CHECK(!"a weight row is floating point or quantized");
}

}  // namespace penstock
