// Philox4x32-10, the counter-based random generator of Salmon, Moraes, Dror and Shaw, "Parallel
// random numbers: as easy as 1, 2, 3" (SC 2011). Four independent 32-bit words for each counter:
// no state, so any thread, batch or device draws the same numbers.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace penstock {

using PhiloxWords = std::array<uint32_t, 4>;

inline PhiloxWords Philox(PhiloxWords counter, uint64_t key) {
  auto key_low = static_cast<uint32_t>(key);
  auto key_high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key_low, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key_high, static_cast<uint32_t>(a)};
    key_low += 0x9E3779B9;
    key_high += 0xBB67AE85;
  }
  return counter;
}

// A standard Gumbel variate from one word: -log(-log(u)) with u the middle of one of 2^23 equal
// parts of (0, 1), so that both logarithms are finite. Between -2.82 and 16.65.
inline double Gumbel(uint32_t word) {
  const double u = (static_cast<double>(word >> 9) + 0.5) * 0x1p-23;
  return -std::log(-std::log(u));
}
constexpr double kGumbelMin = -2.82;
constexpr double kGumbelMax = 16.65;

}  // namespace penstock
