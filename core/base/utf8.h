// UTF-8 by the table of the Unicode standard, section 3.9: no overlong forms, no surrogates,
// nothing above U+10FFFF. Pure functions, thread-safe; offsets and lengths are in bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace penstock {

// U+FFFD, what stands in a text for bytes that are no character.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// What a string of bytes begins with.
struct Utf8Step {
  enum class Kind {
    kCharacter,  // `length` bytes are the character `value`
    kInvalid,    // `length` bytes are no part of any character: one maximal invalid part
    kTruncated,  // all bytes there are (`length`) begin a character that more bytes may complete
  };
  Kind kind = Kind::kInvalid;
  int64_t length = 0;  // 1 to 4
  char32_t value = 0;
};

// REQUIRES: bytes is not empty.
Utf8Step NextUtf8(std::string_view bytes);

// The offset of the first byte that does not belong to a whole character; nothing if all do.
std::optional<int64_t> FindInvalidUtf8(std::string_view bytes);

// REQUIRES: `character` is a Unicode scalar value.
void AppendUtf8(char32_t character, std::string* text);

}  // namespace penstock
