// The blocks of quantized rows as they lie in a GGUF file, and rows of any weight type as float32.
// Pure functions and plain structs. Source of the layouts: see data_type.h.
#pragma once

#include <cstdint>

#include "core/tensor/data_type.h"

namespace penstock {

// The blocks as they lie in the file. Where two elements share a byte, the low nibble of byte i is
// element i and the high nibble element i + 16 (blocks of 32).
struct BlockQ4_0 {
  uint16_t scale;  // f16, here and below
  uint8_t quants[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

struct BlockQ4_1 {
  uint16_t scale;
  uint16_t minimum;
  uint8_t quants[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

// The fifth bits lie apart: bit i of `high` belongs to element i.
struct BlockQ5_0 {
  uint16_t scale;
  uint8_t high[4];
  uint8_t quants[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

struct BlockQ5_1 {
  uint16_t scale;
  uint16_t minimum;
  uint8_t high[4];
  uint8_t quants[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

struct BlockQ8_0 {
  uint16_t scale;
  int8_t quants[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

// `scales` packs eight 6-bit scales and eight 6-bit minima. 32 bytes of quants hold two parts: the
// low nibbles one, the high nibbles the next.
struct BlockQ4_K {
  uint16_t scale;
  uint16_t minimum;
  uint8_t scales[12];
  uint8_t quants[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

// Bit p of high[i] is the fifth bit of element i of part p.
struct BlockQ5_K {
  uint16_t scale;
  uint16_t minimum;
  uint8_t scales[12];
  uint8_t high[32];
  uint8_t quants[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

// Two halves of 128 elements; `high` has the upper two bits of four elements a byte.
struct BlockQ6_K {
  uint8_t low[128];
  uint8_t high[64];
  int8_t scales[16];
  uint16_t scale;
};
static_assert(sizeof(BlockQ6_K) == 210);

// Writes `count` float32 values of a row in any of the types above that a weight may have
// (all but the integers). REQUIRES: count is a multiple of the block.
void Dequantize(DataType type, const void* row, int64_t count, float* out);

}  // namespace penstock
