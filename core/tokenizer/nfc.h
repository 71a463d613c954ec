// Unicode's normalization form NFC (Unicode Standard Annex 15), by the Unicode version that Hugging
// Face's `tokenizers` normalizes with (nfc_tables.h): characters that came later pass unchanged.
// Pure functions, thread-safe.
#pragma once

#include <string>
#include <string_view>

namespace penstock {

// True for most texts that are NFC, found out by looking at bytes alone: nothing below U+0300
// changes or composes.
bool IsCertainlyNfc(std::string_view text);

// REQUIRES: text is UTF-8. O(n log n).
std::string NormalizeNfc(std::string_view text);

}  // namespace penstock
