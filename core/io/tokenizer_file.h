// What the readers of tokenizers have in common, whichever file they read. Pure functions,
// thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

// Adds to the end ids those control tokens that end a generation whatever a file says of its own:
// chat models of one family differ in which of them they emit. Sorts them, each once.
void AddEndIdsByName(TokenizerSpec* spec);

// Unused tokens up to `vocab_size`: a model's embedding table may have more rows than there are
// tokens. 0 leaves the tokens as they are. Errors: INVALID_ARGUMENT, naming `where`, when there are
// more tokens than that, or none.
absl::Status PadTokens(std::string_view where, int64_t vocab_size, TokenizerSpec* spec);

}  // namespace penstock
