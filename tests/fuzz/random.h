// What every mutator draws from: a small generator whose numbers follow from libFuzzer's seed
// alone, so that a run can be repeated, and the values at which sizes, ids and floats go wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace penstock::fuzz {

// Around the ends of the integer types, the exact integers of a double, and what wraps in a
// careless product or sum.
inline constexpr uint64_t kBoundaries[] = {
    0,
    1,
    2,
    7,
    (uint64_t{1} << 7) - 1,
    uint64_t{1} << 7,
    (uint64_t{1} << 8) - 1,
    uint64_t{1} << 8,
    (uint64_t{1} << 15) - 1,
    uint64_t{1} << 15,
    (uint64_t{1} << 16) - 1,
    uint64_t{1} << 16,
    (uint64_t{1} << 31) - 1,
    uint64_t{1} << 31,
    (uint64_t{1} << 31) + 1,
    (uint64_t{1} << 32) - 1,
    uint64_t{1} << 32,
    (uint64_t{1} << 32) + 1,
    uint64_t{1} << 53,
    (uint64_t{1} << 53) + 1,
    uint64_t{1} << 60,
    uint64_t{1} << 62,
    (uint64_t{1} << 63) - 8,
    (uint64_t{1} << 63) - 1,
    uint64_t{1} << 63,
    (uint64_t{1} << 63) + 1,
    UINT64_MAX - 31,
    UINT64_MAX - 7,
    UINT64_MAX - 3,
    UINT64_MAX - 1,
    UINT64_MAX,
};

// The bits of float32 values: zeros, one, the largest, infinities, a NaN, the smallest subnormal.
inline constexpr uint32_t kFloatBits[] = {0x00000000, 0x80000000, 0x3f800000,
                                          0xbf800000, 0x7f7fffff, 0x7f800000,
                                          0xff800000, 0x7fc00000, 0x00000001};

// Decimal numbers that are not plain integers of 64 bits, some of them in no grammar.
inline constexpr std::string_view kOddNumbers[] = {"-1",
                                                   "-2",
                                                   "-0",
                                                   "0.5",
                                                   "1.0",
                                                   "-1.5",
                                                   "18446744073709551616",
                                                   "-9223372036854775808",
                                                   "1e19",
                                                   "1e308",
                                                   "1e309",
                                                   "1e-46",
                                                   "-1e9",
                                                   "4294967296.5",
                                                   "-9223372036854775809",
                                                   "1e-400",
                                                   "01",
                                                   "1.",
                                                   "+1",
                                                   "0x10",
                                                   "NaN",
                                                   "Infinity",
                                                   "-",
                                                   "1e"};

// splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // In 0 .. count-1. REQUIRES: count > 0.
  size_t Below(size_t count) { return static_cast<size_t>(Next() % count); }
  bool OneIn(size_t count) { return Below(count) == 0; }
  // REQUIRES: values is not empty.
  template <typename Values>
  auto Pick(const Values& values) -> decltype(*std::begin(values)) {
    return std::begin(values)[Below(std::size(values))];
  }

  // A value at a boundary, or next to `old`.
  uint64_t Integer(uint64_t old) {
    if (OneIn(3)) return old + Below(5) - 2;
    return Pick(kBoundaries);
  }
  std::string Decimal() {
    return OneIn(2) ? std::to_string(Pick(kBoundaries)) : std::string(Pick(kOddNumbers));
  }

 private:
  uint64_t state_;
};

// The words of a format that no mutation would find by itself: keys, names, magic bytes.
using Words = std::vector<std::string>;

}  // namespace penstock::fuzz
