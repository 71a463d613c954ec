// A byte-level BPE vocabulary small enough to follow by hand.
#pragma once

#include <string>
#include <string_view>

#include "core/tokenizer/byte_alphabet.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

// Bytes without a token, as real vocabularies have some.
inline bool HasNoToken(int byte) { return byte == 0x04 || byte == 0xF1; }

inline void AddToken(std::string_view name, TokenizerSpec::TokenType type, TokenizerSpec* spec) {
  spec->tokens.emplace_back(name);
  spec->types.push_back(type);
}

// Appends the merge of two tokens and its result.
inline void AddMerge(const std::string& left, const std::string& right, TokenizerSpec* spec) {
  AddToken(left + right, TokenizerSpec::TokenType::kNormal, spec);
  spec->merges.push_back(left + " " + right);
}

// Ids 0 to 4 are special, then come the bytes in order, then the results of the merges.
inline TokenizerSpec SmallVocabulary() {
  using Type = TokenizerSpec::TokenType;
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre_tokenizer = "gpt-2";
  AddToken("<|end|>", Type::kControl, &spec);
  AddToken("<|end|><|end|>", Type::kControl, &spec);
  AddToken("<tool>", Type::kUserDefined, &spec);
  AddToken("<unk>", Type::kUnknown, &spec);
  AddToken("[PAD]", Type::kUnused, &spec);
  for (int byte = 0; byte < 256; ++byte) {
    if (HasNoToken(byte)) continue;
    const auto value = static_cast<char>(byte);
    AddToken(BytesToAlphabet({&value, 1}), Type::kNormal, &spec);
  }
  const std::string space = BytesToAlphabet(" ");
  AddMerge("h", "e", &spec);
  AddMerge("l", "l", &spec);
  AddMerge("he", "ll", &spec);
  AddMerge("hell", "o", &spec);
  AddMerge(space, "hello", &spec);
  AddMerge("b", "c", &spec);
  AddMerge("a", "b", &spec);
  AddMerge("a", "a", &spec);
  AddMerge("aa", "aa", &spec);
  AddMerge(BytesToAlphabet("\xC3"), BytesToAlphabet("\xA9"), &spec);  // é
  AddMerge("<", "|", &spec);
  spec.end_ids = {0, 1};
  return spec;
}

}  // namespace penstock
