#include "core/tokenizer/bpe_tokenizer.h"

#include <optional>
#include <utility>

#include "core/base/check.h"
#include "core/tokenizer/byte_alphabet.h"
#include "core/tokenizer/merge_list.h"
#include "core/tokenizer/nfc.h"
#include "core/tokenizer/vocabulary.h"

namespace penstock {

namespace {

using TokenType = TokenizerSpec::TokenType;

constexpr int32_t kNone = -1;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Make(TokenizerSpec spec) {
  PENSTOCK_RETURN_IF_ERROR(CheckVocabulary(spec));
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer);
  PENSTOCK_ASSIGN_OR_RETURN(tokenizer->pre_tokenizer_, PreTokenizer::Make(spec.pre_tokenizer));
  IdByName ids;
  ids.reserve(spec.tokens.size());
  PENSTOCK_RETURN_IF_ERROR(tokenizer->ReadTokens(spec, &ids));
  PENSTOCK_RETURN_IF_ERROR(tokenizer->ReadMerges(spec, ids));
  if (spec.ignore_merges) tokenizer->KeepWords(spec);
  tokenizer->normalize_nfc_ = spec.normalize_nfc;
  tokenizer->end_ids_ = std::move(spec.end_ids);
  if (spec.add_bos) tokenizer->first_id_ = spec.bos_id;
  return tokenizer;
}

absl::Status BpeTokenizer::ReadTokens(const TokenizerSpec& spec, IdByName* ids) {
  byte_ids_.fill(kNone);
  offsets_.reserve(spec.tokens.size() + 1);
  offsets_.push_back(0);
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const std::string& name = spec.tokens[i];
    const TokenType type = spec.types[i];
    if (type == TokenType::kUnused && name.empty()) {  // a row of the embedding without a token
      offsets_.push_back(static_cast<int64_t>(bytes_.size()));
      continue;
    }
    if (const auto [first, inserted] = ids->emplace(name, id); !inserted) {
      return BadVocabulary(absl::StrCat(NamedToken(id, name), " is also token ", first->second));
    }
    switch (type) {
      case TokenType::kNormal:
        if (!AppendAlphabetBytes(name, &bytes_)) {
          return BadVocabulary(
              absl::StrCat(NamedToken(id, name), " has characters outside GPT-2's byte alphabet"));
        }
        if (static_cast<int64_t>(bytes_.size()) == offsets_.back() + 1) {
          byte_ids_[static_cast<uint8_t>(bytes_.back())] = id;
        }
        break;
      case TokenType::kUserDefined:
      case TokenType::kControl:
      case TokenType::kUnknown: {
        const bool user_defined = type == TokenType::kUserDefined;
        if (user_defined) bytes_ += name;
        PENSTOCK_RETURN_IF_ERROR(named_.Add(id, name, user_defined));
        break;
      }
      case TokenType::kByte:
        return BadVocabulary(absl::StrCat(NamedToken(id, name),
                                          " is of type byte, which byte-level BPE does not have"));
      case TokenType::kUnused:
        break;
    }
    offsets_.push_back(static_cast<int64_t>(bytes_.size()));
  }
  named_.Finish();
  return absl::OkStatus();
}

absl::Status BpeTokenizer::ReadMerges(const TokenizerSpec& spec, const IdByName& ids) {
  merges_.reserve(spec.merges.size());
  std::string merged;
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const std::string_view merge = spec.merges[i];
    const auto bad = [&](std::string_view what) {
      return BadVocabulary(absl::StrCat("merge ", i, " (", QuotedToken(merge), ")", Abs(what)));
    };
    const size_t space = merge.find(' ');
    if (space == std::string_view::npos) return bad(" is not two tokens with a space between");
    const std::string_view left = merge.substr(0, space);
    const std::string_view right = merge.substr(space + 1);
    merged.assign(left).append(right);

    int32_t found[3];
    const std::string_view names[3] = {left, right, merged};
    for (int k = 0; k < 3; ++k) {
      const auto token = ids.find(names[k]);
      // Only normal tokens: text must not become a control token by way of a merge.
      if (token == ids.end() || spec.types[token->second] != TokenType::kNormal) {
        return bad(absl::StrCat(": ", QuotedToken(names[k]), " is not a normal token"));
      }
      found[k] = token->second;
    }
    const Merge entry = {static_cast<int32_t>(i), found[2]};
    if (!merges_.emplace(PairKey(found[0], found[1]), entry).second) return bad(" is there twice");
  }
  return absl::OkStatus();
}

std::string_view BpeTokenizer::TokenBytes(int32_t id) const {
  PENSTOCK_CHECK_GE(id, 0);
  PENSTOCK_CHECK_LT(id, vocab_size());
  const int64_t begin = offsets_[id];
  return std::string_view(bytes_).substr(begin, offsets_[id + 1] - begin);
}

// Words that are a token are that token, whatever the merges would make of them.
void BpeTokenizer::KeepWords(const TokenizerSpec& spec) {
  words_.reserve(spec.tokens.size());
  for (int32_t id = 0; id < vocab_size(); ++id) {
    if (spec.types[id] == TokenType::kNormal) words_.emplace(TokenBytes(id), id);
  }
}

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::EncodeParts(std::span<const TextPart> parts,
                                                               bool add_bos) const {
  std::vector<int32_t> ids;
  if (add_bos && first_id_ != kNone) ids.push_back(first_id_);
  PENSTOCK_RETURN_IF_ERROR(named_.Cut(
      parts, [&](std::string_view text) { return EncodePlain(text, &ids); },
      [&](int32_t id) { ids.push_back(id); }));
  return ids;
}

// Text in which only the names of user-defined tokens are theirs.
absl::Status BpeTokenizer::EncodePlain(std::string_view text, std::vector<int32_t>* ids) const {
  while (!text.empty()) {
    size_t at = 0;
    const NamedTokens::Token* named = named_.Find(text, /*parse_special=*/false, &at);
    PENSTOCK_RETURN_IF_ERROR(EncodeText(text.substr(0, at), ids));
    text.remove_prefix(at);
    if (named != nullptr) {
      ids->push_back(named->id);
      text.remove_prefix(named->name.size());
    }
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::EncodeText(std::string_view text, std::vector<int32_t>* ids) const {
  std::string normalized;
  if (normalize_nfc_ && !IsCertainlyNfc(text)) {
    normalized = NormalizeNfc(text);
    text = normalized;
  }
  std::vector<std::string_view> words;
  PENSTOCK_RETURN_IF_ERROR(pre_tokenizer_->Split(text, &words));
  MergeList<int32_t> symbols;
  for (const std::string_view bytes : words) {
    if (const auto word = words_.find(bytes); word != words_.end()) {
      ids->push_back(word->second);
    } else {
      EncodeWord(bytes, &symbols, ids);
    }
  }
  return absl::OkStatus();
}

void BpeTokenizer::EncodeWord(std::string_view bytes, MergeList<int32_t>* symbols,
                              std::vector<int32_t>* ids) const {
  symbols->Clear();
  // Bytes without a token go before the merging, so that their neighbours may merge.
  for (const char byte : bytes) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id != kNone) symbols->Append(id);
  }
  using Pair = MergeList<int32_t>::Merge;
  symbols->MergeAll([this](int32_t left, int32_t right) -> std::optional<Pair> {
    const auto merge = merges_.find(PairKey(left, right));
    if (merge == merges_.end()) return std::nullopt;
    return Pair{static_cast<double>(merge->second.rank), merge->second.id};
  });
  symbols->ForEach([ids](int32_t id) { ids->push_back(id); });
}

}  // namespace penstock
