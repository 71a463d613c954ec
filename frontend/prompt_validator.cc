#include "frontend/prompt_validator.h"

#include <optional>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "core/base/utf8.h"

namespace penstock {
namespace {

absl::Status Bad(const std::string& message) { return absl::InvalidArgumentError(message); }

absl::Status CheckPromptBytes(int64_t bytes, const RequestLimits& limits) {
  if (bytes <= limits.max_prompt_bytes) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("the prompt has ", bytes,
                                            " bytes: this server takes at most ",
                                            limits.max_prompt_bytes, " (--max-prompt-bytes)"));
}

absl::StatusOr<std::vector<int32_t>> EncodeText(const ClientPrompt& prompt,
                                                const RequestLimits& limits,
                                                const Tokenizer& tokenizer) {
  if (prompt.text->empty()) return Bad("the prompt is empty: send at least one character");
  PENSTOCK_RETURN_IF_ERROR(CheckPromptBytes(static_cast<int64_t>(prompt.text->size()), limits));
  PENSTOCK_RETURN_IF_ERROR(CheckUtf8("the prompt", *prompt.text));
  return tokenizer.Encode(*prompt.text, prompt.parse_special);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const ClientPrompt& prompt,
                                                  const RequestLimits& limits,
                                                  const Tokenizer& tokenizer) {
  const int prompts = (prompt.text.has_value() ? 1 : 0) + (prompt.token_ids.has_value() ? 1 : 0);
  if (prompts == 0) return Bad("the request has no prompt: send a text or token ids");
  if (prompts > 1) {
    return Bad("the request holds a text and token ids: send one of them as the prompt");
  }
  if (prompt.token_ids.has_value()) {
    if (prompt.token_ids->empty()) return Bad("the prompt is empty: send at least one token id");
    PENSTOCK_RETURN_IF_ERROR(CheckTokenIds("the prompt", *prompt.token_ids, limits));
    return *prompt.token_ids;
  }
  PENSTOCK_ASSIGN_OR_RETURN(std::vector<int32_t> ids, EncodeText(prompt, limits, tokenizer));
  if (ids.empty()) {
    return Bad("the model's vocabulary has no token for any byte of the prompt: send another text");
  }
  return ids;
}

absl::Status CheckModel(std::string_view model, const RequestLimits& limits) {
  if (model.empty() || model == limits.model) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(
      "model \"", absl::CHexEscape(Abs(model.substr(0, 100))),
      "\" is not served here: leave the field empty or ask for \"", limits.model, "\""));
}

absl::Status CheckTokenIds(std::string_view what, const std::vector<int32_t>& ids,
                           const RequestLimits& limits) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < limits.vocab_size) continue;
    return Bad(absl::StrCat("token id ", ids[i], " at position ", i, " of ", Abs(what),
                            " is not in the vocabulary: ids are 0 to ", limits.vocab_size - 1));
  }
  return absl::OkStatus();
}

absl::Status CheckUtf8(std::string_view field, std::string_view text) {
  const std::optional<int64_t> at = FindInvalidUtf8(text);
  if (!at.has_value()) return absl::OkStatus();
  return Bad(absl::StrFormat("%s is not valid UTF-8: byte %d (0x%02x) is no part of a character",
                             Abs(field), *at,
                             static_cast<unsigned char>(text[static_cast<size_t>(*at)])));
}

}  // namespace penstock
