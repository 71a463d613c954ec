// Mutations of bytes of any format: integers in place, ranges, words. Each call makes one change
// and may change the size.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "tests/fuzz/random.h"

namespace penstock::fuzz {

// Overwrites the integer of 1, 2, 4 or 8 bytes (little-endian) at `offset`, as far as there are
// bytes.
inline void SetInteger(std::string& bytes, size_t offset, size_t width, Random& random) {
  uint64_t value = 0;
  width = std::min(width, bytes.size() - offset);
  std::memcpy(&value, bytes.data() + offset, width);
  value = random.Integer(value);
  std::memcpy(bytes.data() + offset, &value, width);
}

// A range of at most 64 bytes, seldom of any length. REQUIRES: bytes is not empty.
inline std::string_view AnyRange(const std::string& bytes, Random& random) {
  const size_t begin = random.Below(bytes.size());
  const size_t most = std::min<size_t>(bytes.size() - begin, random.OneIn(8) ? SIZE_MAX : 64);
  return std::string_view(bytes).substr(begin, 1 + random.Below(most));
}

inline void MutateBinary(std::string& bytes, Random& random, const Words& words) {
  if (bytes.empty()) {
    bytes = words.empty() ? std::string(8, '\0') : random.Pick(words);
    return;
  }
  const size_t at = random.Below(bytes.size());
  switch (random.Below(10)) {
    case 0:
    case 1:
    case 2:
    case 3:
      SetInteger(bytes, at, size_t{1} << random.Below(4), random);
      break;
    case 4: {
      const uint32_t bits = random.Pick(kFloatBits);
      std::memcpy(bytes.data() + at, &bits, std::min(sizeof(bits), bytes.size() - at));
      break;
    }
    case 5:
      bytes.insert(at, std::string(AnyRange(bytes, random)));
      break;
    case 6: {
      const std::string_view range = AnyRange(bytes, random);
      bytes.erase(static_cast<size_t>(range.data() - bytes.data()), range.size());
      break;
    }
    case 7: {  // two ranges of one length change places
      const size_t length =
          std::min({AnyRange(bytes, random).size(), bytes.size() / 2, bytes.size() - at});
      const size_t other = random.Below(bytes.size() - length + 1);
      if (other + length <= at || at + length <= other) {
        std::swap_ranges(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                         bytes.begin() + static_cast<std::ptrdiff_t>(at + length),
                         bytes.begin() + static_cast<std::ptrdiff_t>(other));
      }
      break;
    }
    case 8:
      if (words.empty()) break;
      if (random.OneIn(2)) {
        bytes.insert(at, random.Pick(words));
      } else {
        const std::string& word = random.Pick(words);
        bytes.replace(at, word.size(), word);
      }
      break;
    default:
      bytes.resize(at);
  }
}

}  // namespace penstock::fuzz
