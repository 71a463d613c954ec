#include "frontend/prompt_validator.h"

#include <optional>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "core/base/checked_size.h"
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

absl::StatusOr<std::vector<int32_t>> EncodeChat(const std::vector<ChatMessage>& messages,
                                                const RequestLimits& limits,
                                                const Tokenizer& tokenizer,
                                                const absl::StatusOr<ChatTemplate>& chat_template) {
  if (!chat_template.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("this model takes no chats (", chat_template.status().message(),
                     "): send a text, laid out as the model knows it"));
  }
  if (messages.empty()) return Bad("the chat is empty: send at least one message");
  const auto count = static_cast<int64_t>(messages.size());
  if (count > limits.max_chat_messages) {
    return absl::OutOfRangeError(absl::StrCat("the chat has ", count, " messages: this server ",
                                              "takes at most ", limits.max_chat_messages,
                                              " (--max-chat-messages)"));
  }
  CheckedSize bytes = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      return Bad(absl::StrCat("message ", i, " of the chat is of role \"",
                              absl::CHexEscape(message.role.substr(0, 100)),
                              "\": roles are system, user and assistant"));
    }
    PENSTOCK_RETURN_IF_ERROR(
        CheckUtf8(absl::StrCat("message ", i, " of the chat"), message.content));
    bytes = bytes + CheckedSize(static_cast<uint64_t>(message.content.size()));
  }
  PENSTOCK_RETURN_IF_ERROR(CheckPromptBytes(bytes.value().value_or(INT64_MAX), limits));
  return chat_template->Encode(messages, tokenizer);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodePrompt(
    const ClientPrompt& prompt, const RequestLimits& limits, const Tokenizer& tokenizer,
    const absl::StatusOr<ChatTemplate>& chat_template) {
  const int prompts = (prompt.text.has_value() ? 1 : 0) + (prompt.token_ids.has_value() ? 1 : 0) +
                      (prompt.chat.has_value() ? 1 : 0);
  if (prompts == 0) return Bad("the request has no prompt: send a text, token ids or a chat");
  if (prompts > 1) {
    return Bad("the request holds several of a text, token ids and a chat: send one of them");
  }
  if (prompt.token_ids.has_value()) {
    if (prompt.token_ids->empty()) return Bad("the prompt is empty: send at least one token id");
    PENSTOCK_RETURN_IF_ERROR(CheckTokenIds("the prompt", *prompt.token_ids, limits));
    return *prompt.token_ids;
  }
  PENSTOCK_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                            prompt.chat.has_value()
                                ? EncodeChat(*prompt.chat, limits, tokenizer, chat_template)
                                : EncodeText(prompt, limits, tokenizer));
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
