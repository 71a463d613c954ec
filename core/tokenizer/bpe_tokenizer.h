// BpeTokenizer: byte-level BPE, the tokenizer of GPT-2 and what followed it. Text is cut at the
// names of special tokens, then into words (PreTokenizer); in each word adjacent tokens are merged,
// best rank first and the leftmost of equals, from single bytes on. Equal to Hugging Face's
// `tokenizers`; time is O(n log n) in the longest word.
// Thread rule: const after Make; any number of callers.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/base/status.h"
#include "core/tokenizer/merge_list.h"
#include "core/tokenizer/named_tokens.h"
#include "core/tokenizer/pre_tokenizer.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

class BpeTokenizer : public Tokenizer {
 public:
  // Errors: INVALID_ARGUMENT and UNIMPLEMENTED as MakeTokenizer's.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(TokenizerSpec spec);

  // With `parse_special` the names of control and unknown tokens become those tokens; the names of
  // user-defined tokens always do. At each place the longest name wins.
  absl::StatusOr<std::vector<int32_t>> EncodeParts(std::span<const TextPart> parts,
                                                   bool add_bos) const override;
  // Normal tokens: their bytes; user-defined ones: their name; all others: nothing.
  std::string_view TokenBytes(int32_t id) const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(offsets_.size()) - 1; }
  const std::vector<int32_t>& end_ids() const override { return end_ids_; }

 private:
  // What two neighbours become. Ranks are unique: a lower one merges first.
  struct Merge {
    int32_t rank;
    int32_t id;
  };
  using IdByName = absl::flat_hash_map<std::string_view, int32_t>;

  BpeTokenizer() = default;

  absl::Status ReadTokens(const TokenizerSpec& spec, IdByName* ids);
  absl::Status ReadMerges(const TokenizerSpec& spec, const IdByName& ids);
  void KeepWords(const TokenizerSpec& spec);
  absl::Status EncodePlain(std::string_view text, std::vector<int32_t>* ids) const;
  absl::Status EncodeText(std::string_view text, std::vector<int32_t>* ids) const;
  void EncodeWord(std::string_view bytes, MergeList<int32_t>* symbols,
                  std::vector<int32_t>* ids) const;

  std::unique_ptr<const PreTokenizer> pre_tokenizer_;
  std::string bytes_;                            // of all tokens, one after the other
  std::vector<int64_t> offsets_;                 // [vocab_size + 1] into bytes_
  std::array<int32_t, 256> byte_ids_{};          // -1: the byte has no token
  absl::flat_hash_map<uint64_t, Merge> merges_;  // by left id << 32 | right id
  IdByName words_;                               // by their bytes; only with ignore_merges
  NamedTokens named_;
  std::vector<int32_t> end_ids_;
  bool normalize_nfc_ = false;
  int32_t first_id_ = -1;  // put before every text; -1: none
};

}  // namespace penstock
