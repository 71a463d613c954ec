// Reads the tokenizer of a Hugging Face folder, whichever files describe it. Pure functions,
// thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

// tokenizer.json, or else tokenizer.model; where both are there and the first has a step that is
// not supported, the second. On top of it come, where they are there:
//   tokenizer_config.json   bos_token, add_bos_token, eos_token, chat_template (one, or of several
//                           the one named "default")
//   generation_config.json  eos_token_id, else that of config.json
//   chat_template.jinja     the chat template, before any other
// and the end ids that follow from the names of control tokens. Unused tokens fill up to
// `vocab_size`, the rows of the model's embedding table (0: none).
// Errors: NOT_FOUND when neither file is there; those of their readers; INVALID_ARGUMENT for a
// setting of a wrong type or a token that does not exist, with the file and the key.
absl::StatusOr<TokenizerSpec> ReadTokenizerFolder(const std::string& folder, int64_t vocab_size);

}  // namespace penstock
