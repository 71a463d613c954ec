#include "core/tokenizer/byte_alphabet.h"

#include <array>

#include "core/base/utf8.h"

namespace penstock {

namespace {

constexpr char32_t kLast = 0x143;
constexpr int16_t kNone = -1;

constexpr bool Prints(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<char32_t, 256> characters{};
  std::array<int16_t, kLast + 1> bytes{};
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  for (int16_t& byte : alphabet.bytes) byte = kNone;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t character = Prints(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.characters[byte] = character;
    alphabet.bytes[character] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();
static_assert(kAlphabet.characters[0xAD] == kLast, "68 bytes do not print");

}  // namespace

char32_t ByteToCharacter(uint8_t byte) { return kAlphabet.characters[byte]; }

std::string BytesToAlphabet(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) AppendUtf8(ByteToCharacter(static_cast<uint8_t>(byte)), &text);
  return text;
}

bool AppendAlphabetBytes(std::string_view text, std::string* bytes) {
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (step.kind != Utf8Step::Kind::kCharacter || step.value > kLast ||
        kAlphabet.bytes[step.value] == kNone) {
      return false;
    }
    bytes->push_back(static_cast<char>(kAlphabet.bytes[step.value]));
    text.remove_prefix(static_cast<size_t>(step.length));
  }
  return true;
}

int ByteOfTokenName(std::string_view name) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  if (name.size() != 6 || name.substr(0, 3) != "<0x" || name[5] != '>') return -1;
  const size_t high = kDigits.find(name[3]);
  const size_t low = kDigits.find(name[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return -1;
  return static_cast<int>(high * 16 + low);
}

}  // namespace penstock
