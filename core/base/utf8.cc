#include "core/base/utf8.h"

#include <cstring>

#include "core/base/check.h"

namespace penstock {

namespace {

constexpr uint64_t kHighBits = 0x8080808080808080;

}  // namespace

Utf8Step NextUtf8(std::string_view bytes) {
  PENSTOCK_CHECK(!bytes.empty());
  const auto lead = static_cast<uint8_t>(bytes[0]);
  if (lead < 0x80) return {Utf8Step::Kind::kCharacter, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Step::Kind::kInvalid, 1, 0};

  const int64_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t value = lead & (0x7F >> length);
  // The second byte's range is narrower where it would be overlong, a surrogate or too large.
  uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (int64_t i = 1; i < length; ++i) {
    if (i == static_cast<int64_t>(bytes.size())) return {Utf8Step::Kind::kTruncated, i, 0};
    const auto byte = static_cast<uint8_t>(bytes[i]);
    if (byte < low || byte > high) return {Utf8Step::Kind::kInvalid, i, 0};
    value = value << 6 | (byte & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Step::Kind::kCharacter, length, value};
}

std::optional<int64_t> FindInvalidUtf8(std::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    uint64_t eight = kHighBits;
    if (bytes.size() - at >= sizeof(eight)) std::memcpy(&eight, bytes.data() + at, sizeof(eight));
    if ((eight & kHighBits) == 0) {  // most text is ASCII
      at += sizeof(eight);
      continue;
    }
    const Utf8Step step = NextUtf8(bytes.substr(at));
    if (step.kind != Utf8Step::Kind::kCharacter) return static_cast<int64_t>(at);
    at += static_cast<size_t>(step.length);
  }
  return std::nullopt;
}

void AppendUtf8(char32_t character, std::string* text) {
  PENSTOCK_CHECK(character < 0xD800 || (character > 0xDFFF && character <= 0x10FFFF));
  const auto append = [text](char32_t byte) { text->push_back(static_cast<char>(byte)); };
  if (character < 0x80) return append(character);
  if (character < 0x800) {
    append(0xC0 | character >> 6);
  } else {
    if (character < 0x10000) {
      append(0xE0 | character >> 12);
    } else {
      append(0xF0 | character >> 18);
      append(0x80 | (character >> 12 & 0x3F));
    }
    append(0x80 | (character >> 6 & 0x3F));
  }
  append(0x80 | (character & 0x3F));
}

}  // namespace penstock
