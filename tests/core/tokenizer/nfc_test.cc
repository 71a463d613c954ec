// NFC on the cases that its rules turn on; the whole range is in the golden files (Qwen2).
#include "core/tokenizer/nfc.h"

#include <gtest/gtest.h>

#include <string>

#include "core/base/utf8.h"

namespace penstock {
namespace {

std::string Text(std::u32string_view characters) {
  std::string text;
  for (const char32_t character : characters) AppendUtf8(character, &text);
  return text;
}

void ExpectNfc(std::u32string_view from, std::u32string_view to) {
  EXPECT_EQ(NormalizeNfc(Text(from)), Text(to));
  EXPECT_EQ(NormalizeNfc(Text(to)), Text(to));
}

TEST(Nfc, ComposesAndOrders) {
  ExpectNfc(U"e\u0301", U"\u00e9");
  ExpectNfc(U"a\u0323\u0302", U"\u1ead");        // two steps
  ExpectNfc(U"a\u0302\u0323", U"\u1ead");        // reordered first
  ExpectNfc(U"e\u0301\u0301", U"\u00e9\u0301");  // the second is of the same class
  ExpectNfc(U"a\u0334\u0301", U"\u00e1\u0334");  // past a mark of a lower class
  ExpectNfc(U"\u0301e", U"\u0301e");             // nothing before it to join
  ExpectNfc(U"a\u0328b\u0328", U"\u0105b\u0328");
}

TEST(Nfc, SingletonsAndExclusionsAreDecomposedForGood) {
  ExpectNfc(U"\u212b", U"\u00c5");
  ExpectNfc(U"\u2126", U"\u03a9");
  ExpectNfc(U"\u037e", U";");
  ExpectNfc(U"\u0958", U"\u0915\u093c");
  ExpectNfc(U"\ufb1d", U"\u05d9\u05b4");
  ExpectNfc(U"\u0344", U"\u0308\u0301");
  ExpectNfc(U"\U0001d15e", U"\U0001d157\U0001d165");
}

TEST(Nfc, HangulIsArithmetic) {
  ExpectNfc(U"\u1112\u1161\u11ab", U"\ud55c");
  ExpectNfc(U"\u1112\u1161", U"\ud558");
  ExpectNfc(U"\ud558\u11ab", U"\ud55c");
  ExpectNfc(U"\ud55c\u11ab", U"\ud55c\u11ab");
  ExpectNfc(U"\u1112\u11a7", U"\u1112\u11a7");
  ExpectNfc(U"\uac00\u11a7", U"\uac00\u11a7");
}

TEST(Nfc, QuickCheckNeverMissesAChange) {
  for (char32_t character = 0; character <= 0x10FFFF; ++character) {
    if (character >= 0xD800 && character < 0xE000) continue;
    const std::string text = Text(std::u32string(1, character));
    if (IsCertainlyNfc(text)) {
      EXPECT_EQ(NormalizeNfc(text), text);
    }
    EXPECT_EQ(NormalizeNfc(NormalizeNfc(text)), NormalizeNfc(text));
  }
  EXPECT_TRUE(IsCertainlyNfc("plain ASCII and \xC3\xA9"));
  EXPECT_FALSE(IsCertainlyNfc("e\xCC\x81"));
}

}  // namespace
}  // namespace penstock
