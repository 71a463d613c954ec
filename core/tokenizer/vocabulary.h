// What every tokenizer says about a TokenizerSpec that contradicts itself, and the checks that do
// not depend on its kind. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

inline absl::Status BadVocabulary(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("the tokenizer's vocabulary is broken: ", what));
}

inline std::string QuotedToken(std::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(Abs(text)), "\"");
}

inline std::string NamedToken(int64_t id, std::string_view name) {
  return absl::StrCat("token ", id, " (", QuotedToken(name), ")");
}

// Errors: INVALID_ARGUMENT unless there are tokens, each with a type, the end ids are tokens in
// ascending order, and so is the first token, which is there if texts shall begin with it.
absl::Status CheckVocabulary(const TokenizerSpec& spec);

}  // namespace penstock
