#include "core/tokenizer/spm_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/base/check.h"
#include "core/base/utf8.h"
#include "core/tokenizer/byte_alphabet.h"
#include "core/tokenizer/vocabulary.h"

namespace penstock {

namespace {

using TokenType = TokenizerSpec::TokenType;

constexpr int32_t kNone = -1;
constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// `name` with spaces where it has U+2581.
void AppendWithSpaces(std::string_view name, std::string* text) {
  while (!name.empty()) {
    const size_t at = std::min(name.find(kSpaceSymbol), name.size());
    text->append(name.substr(0, at));
    name.remove_prefix(at);
    if (name.empty()) return;
    text->push_back(' ');
    name.remove_prefix(kSpaceSymbol.size());
  }
}

}  // namespace

// Turns the pieces that are left into ids.
class SpmTokenizer::Output {
 public:
  Output(const SpmTokenizer& tokenizer, std::vector<int32_t>* ids)
      : tokenizer_(tokenizer), ids_(*ids) {}

  // A piece that may not be used, and the size of its left half, which it will fall back into.
  void AddHalves(std::string_view piece, size_t left) { halves_[piece] = left; }

  void Emit(std::string_view piece, int32_t id) {
    if (id == kNone) return EmitWithoutToken(piece);
    if (tokenizer_.unused_[static_cast<size_t>(id)]) {
      if (const auto left = halves_.find(piece); left != halves_.end()) {
        const std::string_view halves[2] = {piece.substr(0, left->second),
                                            piece.substr(left->second)};
        for (const std::string_view half : halves) Emit(half, tokenizer_.FindPiece(half));
        return;
      }
    }
    // A run of unknown characters is one unknown token.
    const bool unknown = id == tokenizer_.unknown_id_;
    if (!unknown || !after_unknown_) ids_.push_back(id);
    after_unknown_ = unknown;
  }

 private:
  void EmitWithoutToken(std::string_view character) {
    if (tokenizer_.HasByteTokens(character)) {
      for (const char byte : character) {
        ids_.push_back(tokenizer_.byte_ids_[static_cast<uint8_t>(byte)]);
      }
      after_unknown_ = false;
    } else if (tokenizer_.unknown_id_ != kNone) {
      Emit(character, tokenizer_.unknown_id_);
    }
  }

  const SpmTokenizer& tokenizer_;
  std::vector<int32_t>& ids_;
  absl::flat_hash_map<std::string_view, size_t> halves_;
  bool after_unknown_ = false;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> SpmTokenizer::Make(TokenizerSpec spec) {
  PENSTOCK_RETURN_IF_ERROR(CheckVocabulary(spec));
  std::unique_ptr<SpmTokenizer> tokenizer(new SpmTokenizer);
  tokenizer->by_merges_ = !spec.merges.empty();
  PENSTOCK_RETURN_IF_ERROR(tokenizer->ReadTokens(spec));
  PENSTOCK_RETURN_IF_ERROR(tokenizer->ReadMerges(spec));
  tokenizer->space_prefix_ = spec.space_prefix;
  tokenizer->remove_extra_spaces_ = spec.remove_extra_spaces;
  tokenizer->end_ids_ = std::move(spec.end_ids);
  if (spec.add_bos) tokenizer->first_id_ = spec.bos_id;
  return tokenizer;
}

absl::Status SpmTokenizer::ReadTokens(const TokenizerSpec& spec) {
  const size_t size = spec.tokens.size();
  if (!by_merges_ && spec.scores.size() != size) {
    return BadVocabulary(absl::StrCat("it has ", size, " tokens but ", spec.scores.size(),
                                      " scores, by which they merge"));
  }
  byte_ids_.fill(kNone);
  unused_.assign(size, false);
  offsets_.assign(1, 0);
  pieces_.reserve(size);
  // Room first: the keys of pieces_ are views.
  size_t bytes = 0;
  for (const std::string& name : spec.tokens) bytes += name.size();
  names_.reserve(bytes);
  for (size_t i = 0; i < size; ++i) {
    const auto id = static_cast<int32_t>(i);
    const std::string& name = spec.tokens[i];
    const TokenType type = spec.types[i];
    switch (type) {
      case TokenType::kNormal:
      case TokenType::kUserDefined:
      case TokenType::kUnused: {
        unused_[i] = type == TokenType::kUnused;
        if (name.empty()) {  // a row of the embedding without a token
          if (type == TokenType::kUnused) break;
          return BadVocabulary(absl::StrCat("token ", id, " has an empty name"));
        }
        const float score = by_merges_ ? 0 : spec.scores[i];
        if (!std::isfinite(score)) {
          return BadVocabulary(absl::StrCat(NamedToken(id, name), " has the score ", score));
        }
        names_ += name;
        const auto key = std::string_view(names_).substr(names_.size() - name.size());
        if (const auto [first, inserted] = pieces_.emplace(key, Found{id, score}); !inserted) {
          return BadVocabulary(
              absl::StrCat(NamedToken(id, name), " is also token ", first->second.id));
        }
        longest_piece_ = std::max(longest_piece_, name.size());
        if (type != TokenType::kUnused) AppendWithSpaces(name, &bytes_);
        if (type == TokenType::kUserDefined) {
          PENSTOCK_RETURN_IF_ERROR(named_.Add(id, name, /*always=*/true));
        }
        break;
      }
      case TokenType::kByte: {
        const int byte = ByteOfTokenName(name);
        if (byte < 0) {
          return BadVocabulary(absl::StrCat(NamedToken(id, name),
                                            " is of type byte; a name like <0x0A> is expected"));
        }
        if (byte_ids_[byte] != kNone) {
          return BadVocabulary(
              absl::StrCat(NamedToken(id, name), " is also token ", byte_ids_[byte]));
        }
        byte_ids_[byte] = id;
        bytes_.push_back(static_cast<char>(byte));
        break;
      }
      case TokenType::kUnknown:
        if (unknown_id_ != kNone) {
          return BadVocabulary(
              absl::StrCat("tokens ", unknown_id_, " and ", id, " are both the unknown token"));
        }
        unknown_id_ = id;
        [[fallthrough]];
      case TokenType::kControl:
        PENSTOCK_RETURN_IF_ERROR(named_.Add(id, name, /*always=*/false));
        break;
    }
    offsets_.push_back(static_cast<int64_t>(bytes_.size()));
  }
  named_.Finish();
  return absl::OkStatus();
}

absl::Status SpmTokenizer::ReadMerges(const TokenizerSpec& spec) {
  merges_.reserve(spec.merges.size());
  std::string merged;
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const std::string_view merge = spec.merges[i];
    const size_t space = merge.find(' ');
    if (space == std::string_view::npos) {
      return BadVocabulary(absl::StrCat("merge ", i, " (", QuotedToken(merge),
                                        ") is not two tokens with a space between"));
    }
    const std::string_view left = merge.substr(0, space);
    const std::string_view right = merge.substr(space + 1);
    merged.assign(left).append(right);
    int32_t found[3];
    const std::string_view names[3] = {left, right, merged};
    for (int k = 0; k < 3; ++k) {
      found[k] = FindPiece(names[k]);
      if (found[k] == kNone) {
        return BadVocabulary(absl::StrCat("merge ", i, " (", QuotedToken(merge),
                                          "): ", QuotedToken(names[k]), " is not a normal token"));
      }
    }
    const Merge entry = {static_cast<int32_t>(i), found[2]};
    if (!merges_.emplace(PairKey(found[0], found[1]), entry).second) {
      return BadVocabulary(absl::StrCat("merge ", i, " (", QuotedToken(merge), ") is there twice"));
    }
  }
  return absl::OkStatus();
}

std::string_view SpmTokenizer::TokenBytes(int32_t id) const {
  PENSTOCK_CHECK_GE(id, 0);
  PENSTOCK_CHECK_LT(id, vocab_size());
  const int64_t begin = offsets_[id];
  return std::string_view(bytes_).substr(begin, offsets_[id + 1] - begin);
}

int32_t SpmTokenizer::FindPiece(std::string_view piece) const {
  const auto found = pieces_.find(piece);
  return found == pieces_.end() ? kNone : found->second.id;
}

bool SpmTokenizer::HasByteTokens(std::string_view character) const {
  return std::all_of(character.begin(), character.end(),
                     [this](char byte) { return byte_ids_[static_cast<uint8_t>(byte)] != kNone; });
}

absl::StatusOr<std::vector<int32_t>> SpmTokenizer::EncodeParts(std::span<const TextPart> parts,
                                                               bool add_bos) const {
  std::vector<int32_t> ids;
  if (add_bos && first_id_ != kNone) ids.push_back(first_id_);
  bool first = true;  // nothing at all is before this text
  const auto encode = [&, this](std::string_view text) {
    EncodeText(text, first, &ids);
    first = false;
    return absl::OkStatus();
  };
  const auto encode_plain = [&, this](std::string_view text) {
    // sentencepiece merges around its user-defined symbols; Hugging Face cuts texts at them.
    size_t at = 0;
    const NamedTokens::Token* named = nullptr;
    while (by_merges_ && (named = named_.Find(text, /*parse_special=*/false, &at)) != nullptr) {
      PENSTOCK_RETURN_IF_ERROR(encode(text.substr(0, at)));
      ids.push_back(named->id);
      text.remove_prefix(at + named->name.size());
    }
    return encode(text);
  };
  PENSTOCK_RETURN_IF_ERROR(
      named_.Cut(parts, encode_plain, [&ids](int32_t id) { ids.push_back(id); }));
  return ids;
}

std::string SpmTokenizer::Normalize(std::string_view text, bool first) const {
  if (remove_extra_spaces_) text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  std::string normalized;
  if (text.empty()) return normalized;
  const bool unspaced = text[0] != ' ' && text.substr(0, kSpaceSymbol.size()) != kSpaceSymbol;
  if (space_prefix_ == SpacePrefix::kEveryText ||
      (space_prefix_ == SpacePrefix::kSentencePiece && (first || unspaced)) ||
      (space_prefix_ == SpacePrefix::kEveryUnspacedText && unspaced) ||
      (space_prefix_ == SpacePrefix::kFirstUnspacedText && first && unspaced)) {
    normalized += kSpaceSymbol;
  }
  bool after_space = false;
  for (const char byte : text) {
    const bool space = byte == ' ';
    if (!space) {
      normalized += byte;
    } else if (!after_space || !remove_extra_spaces_) {
      normalized += kSpaceSymbol;
    }
    after_space = space;
  }
  while (remove_extra_spaces_ && normalized.size() >= kSpaceSymbol.size() &&
         normalized.compare(normalized.size() - kSpaceSymbol.size(), std::string::npos,
                            kSpaceSymbol) == 0) {
    normalized.resize(normalized.size() - kSpaceSymbol.size());
  }
  return normalized;
}

void SpmTokenizer::EncodeText(std::string_view raw, bool first, std::vector<int32_t>* ids) const {
  const std::string text = Normalize(raw, first);
  MergeList<Piece> pieces;
  AppendPieces(text, &pieces);
  Output output(*this, ids);
  pieces.MergeAll(
      [&](const Piece& left, const Piece& right) { return FindMerge(text, left, right); },
      [&](const Piece& left, const Piece&, const MergeList<Piece>::Merge& merge) {
        const Piece& piece = merge.merged;
        if (!unused_[static_cast<size_t>(piece.id)]) return;
        output.AddHalves(std::string_view(text).substr(piece.begin, piece.size), left.size);
      });
  pieces.ForEach([&](const Piece& piece) {
    output.Emit(std::string_view(text).substr(piece.begin, piece.size), piece.id);
  });
}

void SpmTokenizer::AppendPieces(std::string_view text, MergeList<Piece>* pieces) const {
  size_t at = 0;
  while (at < text.size()) {
    size_t before = text.size() - at;
    const NamedTokens::Token* symbol =
        by_merges_ ? nullptr : named_.Find(text.substr(at), /*parse_special=*/false, &before);
    for (const size_t end = at + before; at < end;) {
      const auto size = static_cast<size_t>(NextUtf8(text.substr(at)).length);
      AppendCharacter(text, at, size, pieces);
      at += size;
    }
    if (symbol != nullptr) {
      pieces->Append({symbol->id, at, symbol->name.size(), true});
      at += symbol->name.size();
    }
  }
}

void SpmTokenizer::AppendCharacter(std::string_view text, size_t begin, size_t size,
                                   MergeList<Piece>* pieces) const {
  const std::string_view character = text.substr(begin, size);
  const int32_t id = FindPiece(character);
  if (id != kNone || !by_merges_ || !HasByteTokens(character)) {
    pieces->Append({id, begin, size, false});
    return;
  }
  for (size_t at = begin; at < begin + size; ++at) {
    pieces->Append({byte_ids_[static_cast<uint8_t>(text[at])], at, 1, false});
  }
}

std::optional<MergeList<SpmTokenizer::Piece>::Merge> SpmTokenizer::FindMerge(
    std::string_view text, const Piece& left, const Piece& right) const {
  if (left.frozen || right.frozen) return std::nullopt;
  Piece merged = {kNone, left.begin, left.size + right.size, false};
  if (by_merges_) {
    const auto merge = merges_.find(PairKey(left.id, right.id));
    if (merge == merges_.end()) return std::nullopt;
    merged.id = merge->second.id;
    return MergeList<Piece>::Merge{static_cast<double>(merge->second.rank), merged};
  }
  if (merged.size > longest_piece_) return std::nullopt;
  const auto found = pieces_.find(text.substr(merged.begin, merged.size));
  if (found == pieces_.end()) return std::nullopt;
  merged.id = found->second.id;
  return MergeList<Piece>::Merge{-static_cast<double>(found->second.score), merged};
}

}  // namespace penstock
