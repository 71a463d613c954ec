// Tokenizer: text to token ids and back. Thread-safe: const after it is made.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace penstock {

// What a tokenizer is made of, whichever file it came from.
struct TokenizerSpec {
  enum class TokenType : uint8_t { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

  // Where sentencepiece's models get a space that the text does not have; what lies between two
  // control tokens counts as a text.
  enum class SpacePrefix : uint8_t {
    kNone,
    // Before the first text, and before one behind a control token unless it begins with a space.
    // What Llama 2 and Mistral were trained with, whose makers encode each part of a chat alone:
    // "<s>[INST] a" and "[INST]a" of chat templates both stand for one space.
    kSentencePiece,
    kEveryText,          // Hugging Face's normalizer Prepend
    kEveryUnspacedText,  // Hugging Face's Metaspace "always": unless the text begins with a space
    kFirstUnspacedText,  // Hugging Face's Metaspace "first"
  };

  // "gpt2": byte-level BPE; "llama": sentencepiece's BPE, merged by score, or by rank if it has
  // merges.
  std::string model;
  std::string pre_tokenizer;        // of byte-level BPE, by its name in pre_tokenizer.h
  std::vector<std::string> tokens;  // by id; byte-level BPE: in the printable alphabet of GPT-2
  std::vector<TokenType> types;     // by id
  std::vector<std::string> merges;  // "left right", best rank first
  std::vector<float> scores;        // by id; of sentencepiece's models
  std::vector<int32_t> end_ids;     // ids that end a generation, sorted
  int32_t bos_id = -1;              // -1: none
  bool add_bos = false;
  SpacePrefix space_prefix = SpacePrefix::kSentencePiece;
  bool remove_extra_spaces = false;  // sentencepiece: one of each run of spaces, none at the ends
  bool ignore_merges = false;        // byte-level BPE: a word that is a token is that token
  bool normalize_nfc = false;        // the text is brought into Unicode's form NFC first
  // The chat template that came with the file, in Jinja. It is recognised, never run.
  std::string chat_template;
};

// A stretch of a text. With `parse_special` the names of control tokens in it become those tokens;
// without it they are ordinary text, so that a user cannot inject one.
struct TextPart {
  std::string_view text;
  bool parse_special = false;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // The ids of the parts' texts behind each other: words and merges go across the borders of
  // parts, names of control tokens do not. With `add_bos` the vocabulary's first token goes before
  // them, if it wants one. Bytes that the vocabulary has no token for are dropped, as Hugging Face
  // does.
  // Errors: INVALID_ARGUMENT for text that is not UTF-8, with the byte's offset.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeParts(std::span<const TextPart> parts,
                                                           bool add_bos) const = 0;
  // Those of one text, with the first token before it.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool parse_special) const {
    const TextPart part{text, parse_special};
    return EncodeParts({&part, 1}, /*add_bos=*/true);
  }

  // The bytes of one token; empty for control tokens. May be part of a character.
  // REQUIRES: 0 <= id < vocab_size().
  virtual std::string_view TokenBytes(int32_t id) const = 0;

  virtual int64_t vocab_size() const = 0;
  // True if a text gets a space before it that Detokenize takes away again (sentencepiece).
  virtual bool adds_space_prefix() const { return false; }
  // Ids that end a generation, sorted.
  virtual const std::vector<int32_t>& end_ids() const = 0;
  bool IsEnd(int32_t id) const;
};

// Errors: INVALID_ARGUMENT for a spec that contradicts itself; UNIMPLEMENTED for a model or
// pre-tokenizer that is not supported, naming those that are.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(TokenizerSpec spec);

// Turns ids into text as they come, and never emits half a character: bytes that may still become
// one are held back. Bytes that cannot be part of any character come out as U+FFFD, one for each
// maximal invalid part (the rule of the Unicode standard, section 3.9, and of Python's
// errors="replace"). A space at the beginning stays, for what an answer continues is not known
// here. Not thread-safe; the tokenizer must outlive it.
class StreamingDetokenizer {
 public:
  explicit StreamingDetokenizer(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  // The text that `id` completes; may be empty.
  std::string Add(int32_t id);
  // What is still held back, as replacement characters; the detokenizer is then empty.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;  // bytes of a character begun
};

// The text that some ids are the whole of: Add for each, then Finish. Where the tokenizer puts a
// space before every text, the first one is taken away.
std::string Detokenize(const Tokenizer& tokenizer, const std::vector<int32_t>& ids);

}  // namespace penstock
