#include <algorithm>
#include <array>
#include <string>

#include "core/io/gguf.h"
#include "core/io/gguf_format.h"

namespace penstock {
namespace {

using TokenType = TokenizerSpec::TokenType;

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kTypes = "tokenizer.ggml.token_type";

// Control tokens that end a generation, whatever eos_token_id says: chat models of one family
// differ in which of them they emit. "<reponame>" is here because llama.cpp, by whose ids text
// made from such a file is compared, counts it among them.
constexpr std::array<std::string_view, 10> kEndNames = {
    "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>",      "<|end|>",
    "<end_of_turn>", "</s>",       "<EOT>",      "<|end_of_text|>", "<reponame>"};

// The codes of the format, in order, from 1.
constexpr std::array<TokenType, 6> kTokenTypes = {TokenType::kNormal,  TokenType::kUnknown,
                                                  TokenType::kControl, TokenType::kUserDefined,
                                                  TokenType::kUnused,  TokenType::kByte};

absl::StatusOr<std::vector<std::string>> ReadStrings(const GgufFile& file, std::string_view key) {
  PENSTOCK_ASSIGN_OR_RETURN(const auto views, file.GetStrings(key));
  return std::vector<std::string>(views.begin(), views.end());
}

absl::StatusOr<std::vector<TokenType>> ReadTypes(const GgufFile& file, size_t num_tokens) {
  if (!file.HasKey(kTypes)) return std::vector<TokenType>(num_tokens, TokenType::kNormal);
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<int64_t> codes, file.GetInts(kTypes));
  if (codes.size() != num_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", Abs(kTypes), " has ",
                                                   codes.size(), " elements; ", num_tokens,
                                                   " are expected, one for each token"));
  }
  std::vector<TokenType> types;
  types.reserve(codes.size());
  for (const int64_t code : codes) {
    if (code < 1 || code > static_cast<int64_t>(kTokenTypes.size())) {
      return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", Abs(kTypes), " of token ",
                                                     types.size(), " is ", code, "; 1 to ",
                                                     kTokenTypes.size(), " is expected"));
    }
    types.push_back(kTokenTypes[static_cast<size_t>(code - 1)]);
  }
  return types;
}

// The token id under `key`, -1 when there is no such key.
absl::StatusOr<int32_t> ReadId(const GgufFile& file, std::string_view key, size_t num_tokens) {
  if (!file.HasKey(key)) return -1;
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t id, file.GetInt(key));
  if (id < 0 || id >= static_cast<int64_t>(num_tokens)) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", Abs(key), " is ", id,
                                                   "; the vocabulary has the ids 0 to ",
                                                   static_cast<int64_t>(num_tokens) - 1));
  }
  return static_cast<int32_t>(id);
}

absl::StatusOr<std::vector<int32_t>> ReadEndIds(const GgufFile& file, const TokenizerSpec& spec) {
  std::vector<int32_t> ids;
  for (const std::string_view key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.eom_token_id"}) {
    PENSTOCK_ASSIGN_OR_RETURN(const int32_t id, ReadId(file, key, spec.tokens.size()));
    if (id >= 0) ids.push_back(id);
  }
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.types[i] != TokenType::kControl) continue;
    if (std::find(kEndNames.begin(), kEndNames.end(), spec.tokens[i]) != kEndNames.end()) {
      ids.push_back(static_cast<int32_t>(i));
    }
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace

absl::StatusOr<TokenizerSpec> ReadGgufTokenizer(const GgufFile& file) {
  TokenizerSpec spec;
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view model, file.GetString("tokenizer.ggml.model"));
  spec.model = std::string(model);
  // Which of the optional keys a model needs is for the tokenizer to say.
  if (file.HasKey("tokenizer.ggml.pre")) {
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view pre, file.GetString("tokenizer.ggml.pre"));
    spec.pre_tokenizer = std::string(pre);
  }
  PENSTOCK_ASSIGN_OR_RETURN(spec.tokens, ReadStrings(file, kTokens));
  const size_t num_tokens = spec.tokens.size();
  if (num_tokens == 0 || num_tokens > static_cast<size_t>(kMaxVocabSize)) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", Abs(kTokens), " holds ",
                                                   num_tokens, " tokens; 1 to ", kMaxVocabSize,
                                                   " are expected"));
  }
  PENSTOCK_ASSIGN_OR_RETURN(spec.types, ReadTypes(file, num_tokens));
  if (file.HasKey("tokenizer.ggml.merges")) {
    PENSTOCK_ASSIGN_OR_RETURN(spec.merges, ReadStrings(file, "tokenizer.ggml.merges"));
  }
  PENSTOCK_ASSIGN_OR_RETURN(spec.bos_id, ReadId(file, "tokenizer.ggml.bos_token_id", num_tokens));
  PENSTOCK_ASSIGN_OR_RETURN(spec.end_ids, ReadEndIds(file, spec));
  if (file.HasKey("tokenizer.ggml.add_bos_token")) {
    PENSTOCK_ASSIGN_OR_RETURN(spec.add_bos, file.GetBool("tokenizer.ggml.add_bos_token"));
  }
  if (spec.add_bos && spec.bos_id < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(),
                     ": tokenizer.ggml.add_bos_token is true but there is no "
                     "tokenizer.ggml.bos_token_id to add"));
  }
  if (file.HasKey("tokenizer.chat_template")) {
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view chat,
                              file.GetString("tokenizer.chat_template"));
    spec.chat_template = std::string(chat);
  }
  return spec;
}

}  // namespace penstock
