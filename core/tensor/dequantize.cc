#include "core/tensor/dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "core/base/check.h"

namespace penstock {
namespace {

uint32_t FifthBits(const uint8_t (&high)[4]) {
  uint32_t bits = 0;
  std::memcpy(&bits, high, sizeof(bits));  // little-endian, as the file
  return bits;
}

void DequantizeBlock(const BlockQ4_0& block, float* out) {
  const float scale = HalfToFloat(block.scale);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>((block.quants[i] & 15) - 8);
    out[i + 16] = scale * static_cast<float>((block.quants[i] >> 4) - 8);
  }
}

void DequantizeBlock(const BlockQ4_1& block, float* out) {
  const float scale = HalfToFloat(block.scale);
  const float minimum = HalfToFloat(block.minimum);
  for (int i = 0; i < 16; ++i) {
    out[i] = std::fma(scale, static_cast<float>(block.quants[i] & 15), minimum);
    out[i + 16] = std::fma(scale, static_cast<float>(block.quants[i] >> 4), minimum);
  }
}

void DequantizeBlock(const BlockQ5_0& block, float* out) {
  const float scale = HalfToFloat(block.scale);
  const uint32_t high = FifthBits(block.high);
  for (int i = 0; i < 16; ++i) {
    const int first = (block.quants[i] & 15) | static_cast<int>((high >> i & 1) << 4);
    const int second = (block.quants[i] >> 4) | static_cast<int>((high >> (i + 16) & 1) << 4);
    out[i] = scale * static_cast<float>(first - 16);
    out[i + 16] = scale * static_cast<float>(second - 16);
  }
}

void DequantizeBlock(const BlockQ5_1& block, float* out) {
  const float scale = HalfToFloat(block.scale);
  const float minimum = HalfToFloat(block.minimum);
  const uint32_t high = FifthBits(block.high);
  for (int i = 0; i < 16; ++i) {
    const int first = (block.quants[i] & 15) | static_cast<int>((high >> i & 1) << 4);
    const int second = (block.quants[i] >> 4) | static_cast<int>((high >> (i + 16) & 1) << 4);
    out[i] = std::fma(scale, static_cast<float>(first), minimum);
    out[i + 16] = std::fma(scale, static_cast<float>(second), minimum);
  }
}

void DequantizeBlock(const BlockQ8_0& block, float* out) {
  const float scale = HalfToFloat(block.scale);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(block.quants[i]);
}

// Scale and minimum of part p: the first four of each are whole 6-bit numbers, the upper two bits
// of the last four lie above those.
struct PartScale {
  float scale;
  float minimum;
};
PartScale ScaleOfPart(const uint8_t (&scales)[12], int part, float scale, float minimum) {
  int s = 0;
  int m = 0;
  if (part < 4) {
    s = scales[part] & 63;
    m = scales[part + 4] & 63;
  } else {
    s = (scales[part + 4] & 15) | (scales[part - 4] >> 6 << 4);
    m = (scales[part + 4] >> 4) | (scales[part] >> 6 << 4);
  }
  return {scale * static_cast<float>(s), minimum * static_cast<float>(m)};
}

void DequantizeBlock(const BlockQ4_K& block, float* out) {
  const float scale = HalfToFloat(block.scale);
  const float minimum = HalfToFloat(block.minimum);
  for (int part = 0; part < 8; ++part) {
    const PartScale of_part = ScaleOfPart(block.scales, part, scale, minimum);
    const uint8_t* quants = block.quants + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const auto quant = static_cast<float>(quants[i] >> shift & 15);
      out[part * 32 + i] = of_part.scale * quant - of_part.minimum;
    }
  }
}

void DequantizeBlock(const BlockQ5_K& block, float* out) {
  const float scale = HalfToFloat(block.scale);
  const float minimum = HalfToFloat(block.minimum);
  for (int part = 0; part < 8; ++part) {
    const PartScale of_part = ScaleOfPart(block.scales, part, scale, minimum);
    const uint8_t* quants = block.quants + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int quant = (quants[i] >> shift & 15) | (block.high[i] >> part & 1) << 4;
      out[part * 32 + i] = of_part.scale * static_cast<float>(quant) - of_part.minimum;
    }
  }
}

void DequantizeBlock(const BlockQ6_K& block, float* out) {
  const float scale = HalfToFloat(block.scale);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128;
    const int quarter = i % 128 / 32;  // of the half: which two bits, which nibble
    const int place = i % 32;
    const uint8_t low = block.low[half * 64 + quarter % 2 * 32 + place];
    const int nibble = low >> (quarter / 2 * 4) & 15;
    const int upper = block.high[half * 32 + place] >> (quarter * 2) & 3;
    const int8_t part_scale = block.scales[i / 16];
    const float of_part = scale * static_cast<float>(part_scale);
    out[i] = of_part * static_cast<float>((nibble | upper << 4) - 32);
  }
}

template <typename Block>
void DequantizeBlocks(DataType type, const void* row, int64_t count, float* out) {
  const int64_t size = Info(type).block;
  const auto* blocks = static_cast<const Block*>(row);
  for (int64_t b = 0; b < count / size; ++b) DequantizeBlock(blocks[b], out + b * size);
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
    case DataType::kQ4_0:
      return DequantizeBlocks<BlockQ4_0>(type, row, count, out);
    case DataType::kQ4_1:
      return DequantizeBlocks<BlockQ4_1>(type, row, count, out);
    case DataType::kQ5_0:
      return DequantizeBlocks<BlockQ5_0>(type, row, count, out);
    case DataType::kQ5_1:
      return DequantizeBlocks<BlockQ5_1>(type, row, count, out);
    case DataType::kQ8_0:
      return DequantizeBlocks<BlockQ8_0>(type, row, count, out);
    case DataType::kQ4_K:
      return DequantizeBlocks<BlockQ4_K>(type, row, count, out);
    case DataType::kQ5_K:
      return DequantizeBlocks<BlockQ5_K>(type, row, count, out);
    case DataType::kQ6_K:
      return DequantizeBlocks<BlockQ6_K>(type, row, count, out);
    case DataType::kI32:
    case DataType::kI64:
    case DataType::kU8:
      break;
  }
  PENSTOCK_CHECK(!"a weight row is floating point or quantized");
}

}  // namespace penstock
