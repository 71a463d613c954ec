#include <array>
#include <string>

#include "core/io/gguf.h"
#include "core/io/gguf_format.h"
#include "core/io/tokenizer_file.h"

namespace penstock {
namespace {

using TokenType = TokenizerSpec::TokenType;

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kTypes = "tokenizer.ggml.token_type";

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
  return ids;
}

absl::Status ReadBool(const GgufFile& file, std::string_view key, bool* value) {
  if (!file.HasKey(key)) return absl::OkStatus();
  PENSTOCK_ASSIGN_OR_RETURN(*value, file.GetBool(key));
  return absl::OkStatus();
}

// Which of the optional keys a model needs is for the tokenizer to say.
absl::Status ReadBpeKeys(const GgufFile& file, TokenizerSpec* spec) {
  if (file.HasKey("tokenizer.ggml.pre")) {
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view pre, file.GetString("tokenizer.ggml.pre"));
    spec->pre_tokenizer = std::string(pre);
  }
  // What else belongs to these vocabularies is not in the file: the name stands for it.
  if (spec->pre_tokenizer == "llama-bpe" || spec->pre_tokenizer == "llama3" ||
      spec->pre_tokenizer == "llama-v3") {
    spec->ignore_merges = true;
    spec->add_bos = spec->bos_id >= 0;
  }
  if (spec->pre_tokenizer == "tekken") spec->ignore_merges = true;
  if (spec->pre_tokenizer == "qwen2") spec->normalize_nfc = true;
  if (file.HasKey("tokenizer.ggml.merges")) {
    PENSTOCK_ASSIGN_OR_RETURN(spec->merges, ReadStrings(file, "tokenizer.ggml.merges"));
  }
  return absl::OkStatus();
}

// Merges, which some files have too, are not needed where there are scores.
absl::Status ReadSentencePieceKeys(const GgufFile& file, TokenizerSpec* spec) {
  constexpr std::string_view kScores = "tokenizer.ggml.scores";
  constexpr std::string_view kCharsmap = "tokenizer.ggml.precompiled_charsmap";
  PENSTOCK_ASSIGN_OR_RETURN(spec->scores, file.GetFloats(kScores));
  if (spec->scores.size() != spec->tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": ", Abs(kScores), " has ", spec->scores.size(), " elements; ",
                     spec->tokens.size(), " are expected, one for each token"));
  }
  if (file.HasKey(kCharsmap)) {
    return absl::UnimplementedError(
        absl::StrCat(file.path(), ": ", Abs(kCharsmap),
                     " changes the characters of a text, which is not supported"));
  }
  spec->add_bos = spec->bos_id >= 0;
  bool space_prefix = true;
  PENSTOCK_RETURN_IF_ERROR(ReadBool(file, "tokenizer.ggml.add_space_prefix", &space_prefix));
  if (!space_prefix) spec->space_prefix = TokenizerSpec::SpacePrefix::kNone;
  return ReadBool(file, "tokenizer.ggml.remove_extra_whitespaces", &spec->remove_extra_spaces);
}

}  // namespace

absl::StatusOr<TokenizerSpec> ReadGgufTokenizer(const GgufFile& file, int64_t vocab_size) {
  TokenizerSpec spec;
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view model, file.GetString("tokenizer.ggml.model"));
  spec.model = std::string(model);
  PENSTOCK_ASSIGN_OR_RETURN(spec.tokens, ReadStrings(file, kTokens));
  const size_t num_tokens = spec.tokens.size();
  PENSTOCK_RETURN_IF_ERROR(
      PadTokens(absl::StrCat(file.path(), ": ", Abs(kTokens)), /*vocab_size=*/0, &spec));
  PENSTOCK_ASSIGN_OR_RETURN(spec.types, ReadTypes(file, num_tokens));
  // What converters call the rows of the embedding that are no token; some say they are tokens that
  // a text may name.
  for (size_t i = 0; i < num_tokens; ++i) {
    if (spec.tokens[i] == absl::StrCat("[PAD", i, "]")) spec.types[i] = TokenType::kUnused;
  }
  PENSTOCK_ASSIGN_OR_RETURN(spec.bos_id, ReadId(file, "tokenizer.ggml.bos_token_id", num_tokens));
  if (spec.model == "llama") {
    PENSTOCK_RETURN_IF_ERROR(ReadSentencePieceKeys(file, &spec));
  } else {
    PENSTOCK_RETURN_IF_ERROR(ReadBpeKeys(file, &spec));
  }
  PENSTOCK_ASSIGN_OR_RETURN(spec.end_ids, ReadEndIds(file, spec));
  AddEndIdsByName(&spec);
  PENSTOCK_RETURN_IF_ERROR(ReadBool(file, "tokenizer.ggml.add_bos_token", &spec.add_bos));
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
  PENSTOCK_RETURN_IF_ERROR(PadTokens(file.path(), vocab_size, &spec));
  return spec;
}

}  // namespace penstock
