#include "core/tokenizer/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "core/base/utf8.h"
#include "core/tokenizer/bpe_tokenizer.h"
#include "core/tokenizer/spm_tokenizer.h"

namespace penstock {

bool Tokenizer::IsEnd(int32_t id) const {
  return std::binary_search(end_ids().begin(), end_ids().end(), id);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(TokenizerSpec spec) {
  if (spec.model == "gpt2") return BpeTokenizer::Make(std::move(spec));
  if (spec.model == "llama") return SpmTokenizer::Make(std::move(spec));
  return absl::UnimplementedError(absl::StrCat(
      "tokenizer model \"", absl::CHexEscape(spec.model),
      "\" is not supported; these are: gpt2 (byte-level BPE), llama (sentencepiece's BPE)"));
}

std::string StreamingDetokenizer::Add(int32_t id) {
  pending_.append(tokenizer_->TokenBytes(id));
  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = NextUtf8(rest);
    if (step.kind == Utf8Step::Kind::kTruncated) break;
    const auto length = static_cast<size_t>(step.length);
    text.append(step.kind == Utf8Step::Kind::kCharacter ? rest.substr(0, length)
                                                        : kReplacementCharacter);
    rest.remove_prefix(length);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return text;
}

std::string StreamingDetokenizer::Finish() {
  if (pending_.empty()) return "";
  // What is held back is the beginning of one character: one maximal invalid part.
  pending_.clear();
  return std::string(kReplacementCharacter);
}

std::string Detokenize(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  StreamingDetokenizer detokenizer(tokenizer);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Add(id);
  text += detokenizer.Finish();
  if (tokenizer.adds_space_prefix() && !text.empty() && text.front() == ' ') text.erase(0, 1);
  return text;
}

}  // namespace penstock
