#include "core/tensor/data_type.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/tensor/dequantize.h"

namespace penstock {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The value of a finite half, from the definition: 1 sign, 5 exponent, 10 mantissa bits.
double SlowHalfValue(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int mantissa = half & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

// The value that `value` has as a half: a whole number of units in the last place, ties to even.
double SlowRoundToHalf(float value) {
  int exponent = 0;
  std::frexp(static_cast<double>(value), &exponent);
  const int unit = std::max(exponent - 11, -24);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
  if (std::fabs(rounded) > 65504.0) return std::copysign(kInfinity, value);
  return rounded;
}

bool IsNanHalf(uint32_t half) { return (half & 0x7c00) == 0x7c00 && (half & 0x3ff) != 0; }
bool IsInfHalf(uint32_t half) { return (half & 0x7fff) == 0x7c00; }

void ExpectRounded(float value) {
  const double expected = SlowRoundToHalf(value);
  const uint16_t half = FloatToHalf(value);
  const float back = HalfToFloat(half);
  ASSERT_EQ(static_cast<double>(back), expected) << std::hexfloat << value;
  ASSERT_EQ(std::signbit(back), std::signbit(value)) << std::hexfloat << value;
}

TEST(HalfTest, AllHalvesHaveTheirValueAndComeBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    if (IsNanHalf(bits)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << bits;
      ASSERT_TRUE(IsNanHalf(FloatToHalf(value))) << bits;
      continue;
    }
    if (IsInfHalf(bits)) {
      ASSERT_EQ(value, (bits & 0x8000) != 0 ? -kInfinity : kInfinity);
    } else {
      ASSERT_EQ(static_cast<double>(value), SlowHalfValue(half)) << bits;
    }
    ASSERT_EQ(FloatToHalf(value), half) << bits;
  }
}

TEST(HalfTest, MidpointsGoToEvenAndTheirNeighboursToTheNearest) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const auto next = static_cast<uint16_t>(bits + 1);
    const auto middle = static_cast<float>((SlowHalfValue(half) + SlowHalfValue(next)) / 2);
    ASSERT_EQ(FloatToHalf(middle), (bits & 1) == 0 ? half : next) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), half) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, kInfinity)), next) << bits;
    ASSERT_EQ(FloatToHalf(-middle), FloatToHalf(middle) | 0x8000) << bits;
  }
}

TEST(HalfTest, EdgesOfTheRange) {
  EXPECT_EQ(FloatToHalf(0.0f), 0x0000);
  EXPECT_EQ(FloatToHalf(-0.0f), 0x8000);
  EXPECT_EQ(FloatToHalf(65504.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xfc00);
  EXPECT_EQ(FloatToHalf(kInfinity), 0x7c00);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0x0000);  // a tie between 0 and the least subnormal
  EXPECT_EQ(FloatToHalf(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(FloatToHalf(std::nextafter(0x1p-14f, 0.0f)), 0x0400);
  EXPECT_EQ(FloatToHalf(std::numeric_limits<float>::denorm_min()), 0x0000);
}

TEST(HalfTest, RandomFloatsRoundAsTheSlowRuleDoes) {
  std::mt19937 random(7);
  for (int i = 0; i < 300000; ++i) {
    const float any = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isfinite(any)) {
      ASSERT_NO_FATAL_FAILURE(ExpectRounded(any));
    }
    // Within the range of halves, where the rounding happens.
    const float near = std::ldexp(static_cast<float>(static_cast<int32_t>(random())),
                                  static_cast<int>(random() % 48) - 60);
    ASSERT_NO_FATAL_FAILURE(ExpectRounded(near));
  }
}

TEST(DequantizeTest, PlainTypes) {
  const float f32[] = {1.5f, -2.0f, 3e-39f};
  const uint16_t f16[] = {0x3c00, 0xc000, 0x0001};
  const uint16_t bf16[] = {0x3f80, 0xc000, 0x0001};
  float out[3];
  Dequantize(DataType::kF32, f32, 3, out);
  EXPECT_EQ(std::memcmp(out, f32, sizeof(out)), 0);
  Dequantize(DataType::kF16, f16, 3, out);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -2.0f);
  EXPECT_EQ(out[2], 0x1p-24f);
  Dequantize(DataType::kBF16, bf16, 3, out);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -2.0f);
  EXPECT_EQ(out[2], 0x1p-133f);
}

TEST(DequantizeTest, Q4_1IsScaleTimesNibblePlusMinimum) {
  std::mt19937 random(11);
  std::vector<BlockQ4_1> blocks(40);
  for (BlockQ4_1& block : blocks) {
    block.scale = FloatToHalf(static_cast<float>(random() % 1000) / 777.0f);
    block.minimum = FloatToHalf(-static_cast<float>(random() % 1000) / 99.0f);
    for (uint8_t& pair : block.quants) pair = static_cast<uint8_t>(random());
  }
  std::vector<float> out(blocks.size() * 32);
  Dequantize(DataType::kQ4_1, blocks.data(), static_cast<int64_t>(out.size()), out.data());
  for (size_t i = 0; i < out.size(); ++i) {
    const BlockQ4_1& block = blocks[i / 32];
    const size_t j = i % 32;
    const int q = j < 16 ? block.quants[j] & 15 : block.quants[j - 16] >> 4;
    const double exact = SlowHalfValue(block.scale) * q + SlowHalfValue(block.minimum);
    ASSERT_EQ(out[i], static_cast<float>(exact)) << i;
  }
}

TEST(DequantizeTest, Q8_0IsScaleTimesByte) {
  std::mt19937 random(13);
  std::vector<BlockQ8_0> blocks(40);
  for (BlockQ8_0& block : blocks) {
    block.scale = FloatToHalf(static_cast<float>(random() % 1000) / 12345.0f);
    for (int8_t& q : block.quants) q = static_cast<int8_t>(random());
  }
  blocks[0].quants[0] = -128;
  std::vector<float> out(blocks.size() * 32);
  Dequantize(DataType::kQ8_0, blocks.data(), static_cast<int64_t>(out.size()), out.data());
  for (size_t i = 0; i < out.size(); ++i) {
    const BlockQ8_0& block = blocks[i / 32];
    ASSERT_EQ(out[i], static_cast<float>(SlowHalfValue(block.scale) * block.quants[i % 32])) << i;
  }
}

TEST(DequantizeTest, WhatIsNoWeightDies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const int32_t row[32] = {};
  float out[32];
  EXPECT_DEATH(Dequantize(DataType::kI32, row, 1, out), "floating point or quantized");
  EXPECT_DEATH(Dequantize(DataType::kQ8_0, row, 33, out), "CHECK failed");
}

TEST(BFloat16Test, EveryValueComesBackAndMidpointsGoToEven) {
  const auto value_of = [](uint32_t bits) { return std::bit_cast<float>(bits << 16); };
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto exact = static_cast<uint16_t>(bits);
    if (std::isnan(value_of(bits))) {
      ASSERT_TRUE(std::isnan(value_of(FloatToBFloat16(value_of(bits))))) << bits;
      continue;
    }
    ASSERT_EQ(FloatToBFloat16(value_of(bits)), exact);
    if (std::isinf(value_of(bits))) continue;
    const auto at = [&](uint32_t low) { return std::bit_cast<float>(bits << 16 | low); };
    ASSERT_EQ(FloatToBFloat16(at(0x7fff)), exact);
    ASSERT_EQ(FloatToBFloat16(at(0x8000)), bits + (bits & 1));
    ASSERT_EQ(FloatToBFloat16(at(0x8001)), bits + 1);
  }
  // A NaN whose bits all lie below those that stay.
  ASSERT_TRUE(std::isnan(value_of(FloatToBFloat16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace penstock
