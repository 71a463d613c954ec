// Golden files of token ids.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace penstock {

// The file below tests/golden, parsed; fails the test and gives null if there is none.
inline nlohmann::json ReadGolden(const std::string& path) {
  std::ifstream stream(PENSTOCK_SOURCE_DIR "/tests/golden/" + path);
  auto json = nlohmann::json::parse(stream, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    ADD_FAILURE() << path << " is missing or broken";
    return nullptr;
  }
  return json;
}

// FNV-1a of the ids as 32-bit numbers, as make_tokenizers.py writes it.
inline std::string DigestOf(const std::vector<int32_t>& ids) {
  uint64_t value = 0xCBF29CE484222325;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      value = (value ^ (static_cast<uint32_t>(id) >> shift & 0xFF)) * 0x100000001B3;
    }
  }
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return text;
}

// `ids` the way make_tokenizers.py writes them: in full, or folded when there are many.
inline nlohmann::json Folded(const std::vector<int32_t>& ids) {
  if (ids.size() <= 64) return ids;
  const std::vector<int32_t> first(ids.begin(), ids.begin() + 16);
  return {{"count", ids.size()}, {"first", first}, {"digest", DigestOf(ids)}};
}

}  // namespace penstock
