// Reads a sentencepiece model (tokenizer.model): the message ModelProto of the published
// sentencepiece_model.proto, by a reader of our own. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

// What a tokenizer is made of. The ids are those of the file, then unused ones up to `vocab_size`,
// the rows of the model's embedding table (0: as many as the file has). Texts begin with BOS if the
// file has one; generations end with EOS.
// Errors: those of MmapFile::Open; INVALID_ARGUMENT for what is no such model or has more tokens
// than `vocab_size`; UNIMPLEMENTED for a model that is not BPE or normalizes texts in a way that is
// not supported, both with the file and the field.
absl::StatusOr<TokenizerSpec> ReadSentencePieceModel(const std::string& path, int64_t vocab_size);
// The same on bytes in memory; `name` stands for the file in messages.
absl::StatusOr<TokenizerSpec> ParseSentencePieceModel(const std::string& name,
                                                      std::string_view bytes, int64_t vocab_size);

}  // namespace penstock
