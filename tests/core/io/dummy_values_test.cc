// The vector versions of the dummy values against the plain one, at every offset.
#include "core/io/dummy_values.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/tensor/data_type.h"

namespace penstock {
namespace {

constexpr uint64_t kKey = 0x0123456789abcdef;
constexpr float kBound = 0.0271f;

void ExpectPlain(int64_t first, int64_t count) {
  constexpr float kPoison = 77;
  std::vector<float> floats(static_cast<size_t>(count) + 1, kPoison);
  std::vector<uint16_t> halves(static_cast<size_t>(count) + 1, 0x7777);
  DummyValues(kKey, kBound, first, count, floats.data());
  DummyValues(kKey, kBound, first, count, halves.data());
  for (int64_t i = 0; i < count; ++i) {
    const float expected = DummyValue(kKey, kBound, first + i);
    ASSERT_EQ(floats[static_cast<size_t>(i)], expected) << first << " + " << i;
    ASSERT_EQ(halves[static_cast<size_t>(i)], FloatToBFloat16(expected)) << first << " + " << i;
  }
  EXPECT_EQ(floats.back(), kPoison);
  EXPECT_EQ(halves.back(), 0x7777);
}

TEST(DummyValues, AnyPartIsThePlainOne) {
  for (int64_t first = 0; first < 9; ++first) {
    for (int64_t count = 0; count < 300; count += count < 70 ? 1 : 13) {
      ASSERT_NO_FATAL_FAILURE(ExpectPlain(first, count));
    }
  }
  ASSERT_NO_FATAL_FAILURE(ExpectPlain(1, 50000));
}

// The counter's upper half is another word of the block.
TEST(DummyValues, BeyondFourBillionBlocks) {
  for (const int64_t block : {(int64_t{1} << 32) - 3, int64_t{5} << 32}) {
    ASSERT_NO_FATAL_FAILURE(ExpectPlain(4 * block + 2, 200));
  }
}

// The numbers themselves, so that a model of a seed stays the model that figures were measured on.
TEST(DummyValues, StayWhatTheyAre) {
  const float expected[] = {0.780518293f, 0.789369345f, 0.171451807f, 0.422536135f, 0.343996525f};
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(DummyValue(1, 1.0f, i), expected[i]) << i;
}

TEST(DummyValues, AreUniform) {
  constexpr int64_t kCount = 1 << 16;
  std::vector<float> values(kCount);
  DummyValues(kKey, 1.0f, 0, kCount, values.data());
  double sum = 0;
  double squares = 0;
  for (const float value : values) {
    ASSERT_LE(std::abs(value), 1.0f);
    sum += value;
    squares += double{value} * value;
  }
  EXPECT_NEAR(sum / kCount, 0, 0.01);  // 4.4 standard deviations
  EXPECT_NEAR(squares / kCount, 1.0 / 3, 0.01);
}

}  // namespace
}  // namespace penstock
