// SpmTokenizer: sentencepiece's BPE, the tokenizer of Llama 2 and Mistral. A text is one word:
// spaces become U+2581, one is put before it, and neighbours merge from single characters on, the
// pair whose piece has the best score first. Characters without a token are spelled with byte
// tokens. Equal to Google's sentencepiece; with merges instead of scores equal to Hugging Face's
// `tokenizers`, where merges have ranks as in byte-level BPE. O(n log n) in the text.
// Thread rule: const after Make; any number of callers.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/base/status.h"
#include "core/tokenizer/merge_list.h"
#include "core/tokenizer/named_tokens.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

class SpmTokenizer : public Tokenizer {
 public:
  // Errors: INVALID_ARGUMENT as MakeTokenizer's.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(TokenizerSpec spec);

  // What lies between two control tokens is a text of its own: it gets TokenizerSpec's space. A run
  // of characters without any token becomes one unknown token, or nothing if there is none.
  absl::StatusOr<std::vector<int32_t>> EncodeParts(std::span<const TextPart> parts,
                                                   bool add_bos) const override;
  // U+2581 as a space; the byte of a byte token; control, unknown and unused tokens: nothing.
  std::string_view TokenBytes(int32_t id) const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(offsets_.size()) - 1; }
  const std::vector<int32_t>& end_ids() const override { return end_ids_; }
  bool adds_space_prefix() const override { return space_prefix_ != SpacePrefix::kNone; }

 private:
  using SpacePrefix = TokenizerSpec::SpacePrefix;

  // A stretch of the normalized text that is one token, or one character without a token.
  struct Piece {
    int32_t id;  // -1: no token
    size_t begin;
    size_t size;
    bool frozen;  // a user-defined symbol: it does not merge
  };
  struct Found {
    int32_t id;
    float score;
  };
  struct Merge {
    int32_t rank;
    int32_t id;
  };
  class Output;

  SpmTokenizer() = default;

  absl::Status ReadTokens(const TokenizerSpec& spec);
  absl::Status ReadMerges(const TokenizerSpec& spec);
  std::string Normalize(std::string_view text, bool first) const;
  void EncodeText(std::string_view text, bool first, std::vector<int32_t>* ids) const;
  void AppendPieces(std::string_view text, MergeList<Piece>* pieces) const;
  void AppendCharacter(std::string_view text, size_t begin, size_t size,
                       MergeList<Piece>* pieces) const;
  std::optional<MergeList<Piece>::Merge> FindMerge(std::string_view text, const Piece& left,
                                                   const Piece& right) const;
  bool HasByteTokens(std::string_view character) const;
  int32_t FindPiece(std::string_view piece) const;

  std::string bytes_;             // of all tokens, as text
  std::vector<int64_t> offsets_;  // [vocab_size + 1] into bytes_
  std::string names_;             // of normal, user-defined and unused tokens, one after the other
  absl::flat_hash_map<std::string_view, Found> pieces_;  // views into names_
  size_t longest_piece_ = 0;                             // bytes
  absl::flat_hash_map<uint64_t, Merge> merges_;          // by left id << 32 | right id
  std::vector<bool> unused_;                             // by id
  std::array<int32_t, 256> byte_ids_{};                  // -1: no byte token
  NamedTokens named_;
  std::vector<int32_t> end_ids_;
  int32_t unknown_id_ = -1;
  int32_t first_id_ = -1;
  bool by_merges_ = false;
  SpacePrefix space_prefix_ = SpacePrefix::kSentencePiece;
  bool remove_extra_spaces_ = false;
};

}  // namespace penstock
