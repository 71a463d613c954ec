#include "core/tokenizer/named_tokens.h"

#include <algorithm>
#include <optional>

#include "core/base/utf8.h"
#include "core/tokenizer/vocabulary.h"

namespace penstock {

absl::Status NamedTokens::Add(int32_t id, std::string_view name, bool always) {
  if (name.empty() || FindInvalidUtf8(name)) {
    return BadVocabulary(
        absl::StrCat(NamedToken(id, name), " is special, but its name is no UTF-8 text"));
  }
  by_byte_[static_cast<uint8_t>(name[0])].push_back({std::string(name), id, always});
  return absl::OkStatus();
}

void NamedTokens::Finish() {
  for (std::vector<Token>& tokens : by_byte_) {
    std::sort(tokens.begin(), tokens.end(),
              [](const Token& a, const Token& b) { return a.name.size() > b.name.size(); });
  }
}

const NamedTokens::Token* NamedTokens::Find(std::string_view text, bool parse_special,
                                            size_t* at) const {
  for (*at = 0; *at < text.size(); ++*at) {
    for (const Token& token : by_byte_[static_cast<uint8_t>(text[*at])]) {
      if ((token.always || parse_special) &&
          text.compare(*at, token.name.size(), token.name) == 0) {
        return &token;
      }
    }
  }
  return nullptr;
}

absl::Status NamedTokens::Cut(std::span<const TextPart> parts,
                              const std::function<absl::Status(std::string_view)>& on_plain,
                              const std::function<void(int32_t)>& on_token) const {
  std::string joined;
  if (parts.size() != 1) {
    for (const TextPart& part : parts) joined.append(part.text);
  }
  const std::string_view text = parts.size() == 1 ? parts[0].text : std::string_view(joined);
  if (const std::optional<int64_t> bad = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text is not UTF-8: the byte at offset ", *bad, " is wrong"));
  }
  size_t plain = 0;  // where the text begins that no control token has ended yet
  size_t end = 0;    // of the parts so far
  for (const TextPart& part : parts) {
    size_t at = end;
    end += part.text.size();
    while (part.parse_special && at < end) {
      size_t before = 0;
      const Token* token = Find(text.substr(at, end - at), true, &before);
      if (token == nullptr) break;
      at += before;
      if (!token->always) {
        PENSTOCK_RETURN_IF_ERROR(on_plain(text.substr(plain, at - plain)));
        on_token(token->id);
        plain = at + token->name.size();
      }
      at += token->name.size();
    }
  }
  return on_plain(text.substr(plain));
}

}  // namespace penstock
