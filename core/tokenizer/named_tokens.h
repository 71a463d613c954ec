// NamedTokens: the tokens that are found by their name in raw text, before any merging. Shared by
// all tokenizers, so that what a text may inject is decided in one place.
// Thread rule: const after Finish; any number of callers.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

class NamedTokens {
 public:
  struct Token {
    std::string name;
    int32_t id;
    bool always;  // also where special tokens are not parsed
  };

  // Control and unknown tokens are found where special tokens are parsed, user-defined ones always.
  // Errors: INVALID_ARGUMENT for a name that is empty or no UTF-8: it could match in the middle of
  // a character.
  absl::Status Add(int32_t id, std::string_view name, bool always);
  // REQUIRES: called once, after the last Add.
  void Finish();

  // The first token in `text` by its name, the longest of those that begin there, and where it
  // begins; null and the text's size if there is none.
  const Token* Find(std::string_view text, bool parse_special, size_t* at) const;

  // The texts of the parts behind each other are cut at the names of control tokens, which only
  // match inside a part that parses them. `on_plain` gets what lies between, also when it is empty;
  // in it only user-defined names count. `on_token` gets the ids. In order.
  // Errors: INVALID_ARGUMENT for text that is not UTF-8, with the byte's offset; those of on_plain.
  absl::Status Cut(std::span<const TextPart> parts,
                   const std::function<absl::Status(std::string_view)>& on_plain,
                   const std::function<void(int32_t)>& on_token) const;

 private:
  std::array<std::vector<Token>, 256> by_byte_;  // by first byte, longest name first
};

}  // namespace penstock
