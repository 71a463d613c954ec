// UTF-8 by brute force: the rows of table 3-7 of the Unicode standard, tried one by one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace penstock {

struct Utf8Row {
  std::vector<std::pair<uint8_t, uint8_t>> ranges;  // of the first byte, the second, ...
};

inline const std::vector<Utf8Row>& Utf8Rows() {
  static const auto* const rows = new std::vector<Utf8Row>{
      {{{0x00, 0x7F}}},
      {{{0xC2, 0xDF}, {0x80, 0xBF}}},
      {{{0xE0, 0xE0}, {0xA0, 0xBF}, {0x80, 0xBF}}},
      {{{0xE1, 0xEC}, {0x80, 0xBF}, {0x80, 0xBF}}},
      {{{0xED, 0xED}, {0x80, 0x9F}, {0x80, 0xBF}}},
      {{{0xEE, 0xEF}, {0x80, 0xBF}, {0x80, 0xBF}}},
      {{{0xF0, 0xF0}, {0x90, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}}},
      {{{0xF1, 0xF3}, {0x80, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}}},
      {{{0xF4, 0xF4}, {0x80, 0x8F}, {0x80, 0xBF}, {0x80, 0xBF}}},
  };
  return *rows;
}

// The longest beginning of `bytes` that is a character or the beginning of one.
struct Utf8Prefix {
  size_t length = 0;
  bool whole = false;
};

inline Utf8Prefix LongestUtf8Prefix(std::string_view bytes) {
  Utf8Prefix best;
  for (const Utf8Row& row : Utf8Rows()) {
    size_t length = 0;
    while (length < row.ranges.size() && length < bytes.size() &&
           static_cast<uint8_t>(bytes[length]) >= row.ranges[length].first &&
           static_cast<uint8_t>(bytes[length]) <= row.ranges[length].second) {
      ++length;
    }
    if (length > best.length) best = {length, length == row.ranges.size()};
  }
  return best;
}

// What Python's bytes.decode(errors="replace") gives. If `held_back` is given, a character begun
// at the end is not replaced but left out, and its length stored there.
inline std::string ReplaceInvalidUtf8(std::string_view bytes, size_t* held_back = nullptr) {
  std::string text;
  if (held_back != nullptr) *held_back = 0;
  while (!bytes.empty()) {
    const Utf8Prefix prefix = LongestUtf8Prefix(bytes);
    if (held_back != nullptr && !prefix.whole && prefix.length == bytes.size()) {
      *held_back = prefix.length;
      break;
    }
    text += prefix.whole ? std::string(bytes.substr(0, prefix.length)) : "\xEF\xBF\xBD";
    bytes.remove_prefix(prefix.length == 0 ? 1 : prefix.length);
  }
  return text;
}

}  // namespace penstock
