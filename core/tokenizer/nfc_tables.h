// The Unicode data behind nfc.h, made by tests/golden/make_nfc_tables.py. Constant.
#pragma once

#include <array>
#include <cstdint>

namespace penstock {

inline constexpr int kNumDecompositions = 2060;
inline constexpr int kNumCombining = 351;

// Canonical decompositions but Hangul's, sorted: code point << 43 | first << 22 | second << 1, plus
// 1 where first and second compose to the code point. A second of 0: there is only the first.
extern const std::array<uint64_t, kNumDecompositions> kDecompositions;

// Runs of characters of one combining class, sorted: first << 11 | (length - 1) << 8 | class.
extern const std::array<uint32_t, kNumCombining> kCombining;

}  // namespace penstock
