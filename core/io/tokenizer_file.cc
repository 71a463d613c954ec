#include "core/io/tokenizer_file.h"

#include <algorithm>
#include <array>

#include "core/model/model_config.h"

namespace penstock {
namespace {

using TokenType = TokenizerSpec::TokenType;

// "<reponame>" is here because llama.cpp, by whose ids text made from such a file is compared,
// counts it among them.
constexpr std::array<std::string_view, 10> kEndNames = {
    "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>",      "<|end|>",
    "<end_of_turn>", "</s>",       "<EOT>",      "<|end_of_text|>", "<reponame>"};

}  // namespace

void AddEndIdsByName(TokenizerSpec* spec) {
  std::vector<int32_t>& ids = spec->end_ids;
  for (size_t i = 0; i < spec->tokens.size(); ++i) {
    if (spec->types[i] != TokenType::kControl) continue;
    if (std::find(kEndNames.begin(), kEndNames.end(), spec->tokens[i]) != kEndNames.end()) {
      ids.push_back(static_cast<int32_t>(i));
    }
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

absl::Status PadTokens(std::string_view where, int64_t vocab_size, TokenizerSpec* spec) {
  const auto size = static_cast<int64_t>(spec->tokens.size());
  const int64_t most = vocab_size == 0 ? kMaxVocabSize : std::min(vocab_size, kMaxVocabSize);
  if (size == 0 || size > most) {
    return absl::InvalidArgumentError(
        absl::StrCat(Abs(where), " holds ", size, " tokens; 1 to ", most, " are expected",
                     vocab_size == 0 ? "" : ", the rows of the model's embedding table"));
  }
  if (vocab_size == 0) return absl::OkStatus();
  spec->tokens.resize(static_cast<size_t>(vocab_size));
  spec->types.resize(static_cast<size_t>(vocab_size), TokenType::kUnused);
  if (!spec->scores.empty()) spec->scores.resize(static_cast<size_t>(vocab_size), 0);
  return absl::OkStatus();
}

}  // namespace penstock
