// GPT-2's byte alphabet: each of the 256 bytes has one printable character, so that the tokens of
// byte-level BPE can be written as text. Bytes that print stand for themselves; the other 68, in
// order, are U+0100 and what follows. Also the names of sentencepiece's
// byte tokens. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace penstock {

char32_t ByteToCharacter(uint8_t byte);

// `bytes` written in the alphabet, as UTF-8.
std::string BytesToAlphabet(std::string_view bytes);

// Appends the bytes that `text` stands for. False, with some of them appended, if `text` is not
// UTF-8 or holds a character outside the alphabet.
bool AppendAlphabetBytes(std::string_view text, std::string* bytes);

// The byte that the name of a sentencepiece byte token ("<0x1F>") stands for, -1 for any other
// name.
int ByteOfTokenName(std::string_view name);

}  // namespace penstock
