// The check of a prompt and its way to token ids, the same for Generate and Tokenize. Pure
// functions, thread-safe.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"
#include "frontend/client_request.h"

namespace penstock {

// The prompt's ids: at least one, each in the vocabulary; how many is not looked at.
// `chat_template` is the model's, or why it has none that is known.
// Errors: INVALID_ARGUMENT (no prompt or several, an empty one, a bad id, broken UTF-8, a role or
// an order of messages that the template does not have), OUT_OF_RANGE (more bytes than
// max_prompt_bytes), FAILED_PRECONDITION (a chat without a template).
absl::StatusOr<std::vector<int32_t>> EncodePrompt(
    const ClientPrompt& prompt, const RequestLimits& limits, const Tokenizer& tokenizer,
    const absl::StatusOr<ChatTemplate>& chat_template);

// NOT_FOUND if `model` is neither empty nor the one that is served.
absl::Status CheckModel(std::string_view model, const RequestLimits& limits);

// INVALID_ARGUMENT if an id is not in the vocabulary, naming it, its place and `what` it is of.
absl::Status CheckTokenIds(std::string_view what, const std::vector<int32_t>& ids,
                           const RequestLimits& limits);

// INVALID_ARGUMENT if `text` is not UTF-8, naming `field`, the offset and the byte.
absl::Status CheckUtf8(std::string_view field, std::string_view text);

}  // namespace penstock
