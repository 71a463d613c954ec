// Reads tokenizer.json, the file in which Hugging Face's `tokenizers` keeps a tokenizer. It
// describes a pipeline of many possible steps; those of the supported models are recognised by what
// they are, all others are refused: a tokenizer that is nearly right would be worse than none.
// Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/io/json.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

// Byte-level BPE becomes the model "gpt2", BPE with sentencepiece's spaces the model "llama",
// merged by rank. Special added tokens become control tokens, other added ones user-defined; ids
// without a token up to `vocab_size`, the rows of the model's embedding table, are unused (0: there
// must be none). Texts begin with BOS if the post-processor says so. The file names no end ids: see
// tokenizer_folder.h.
// Errors: INVALID_ARGUMENT for what contradicts itself; UNIMPLEMENTED for a step that is not
// supported; both with the file and the place.
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(const JsonDocument& document, int64_t vocab_size);

}  // namespace penstock
