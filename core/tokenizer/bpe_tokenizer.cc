#include "core/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/strings/escaping.h"
#include "core/base/check.h"
#include "core/base/utf8.h"
#include "core/tokenizer/byte_alphabet.h"

namespace penstock {

namespace {

using TokenType = TokenizerSpec::TokenType;

constexpr int32_t kNone = -1;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

absl::Status Bad(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("the tokenizer's vocabulary is broken: ", what));
}

std::string Quoted(std::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(Abs(text)), "\"");
}

std::string Named(int64_t id, std::string_view name) {
  return absl::StrCat("token ", id, " (", Quoted(name), ")");
}

absl::Status CheckSizes(const TokenizerSpec& spec) {
  const auto size = static_cast<int64_t>(spec.tokens.size());
  if (size == 0) return Bad("it has no tokens");
  if (size > INT32_MAX) return Bad(absl::StrCat("it has ", size, " tokens, too many for 32 bits"));
  if (spec.types.size() != spec.tokens.size()) {
    return Bad(absl::StrCat("it has ", size, " tokens but ", spec.types.size(), " token types"));
  }
  for (size_t i = 0; i < spec.end_ids.size(); ++i) {
    const int32_t id = spec.end_ids[i];
    if (id < 0 || id >= size) {
      return Bad(absl::StrCat("the end token's id ", id, " is not in 0 to ", size - 1));
    }
    if (i > 0 && id <= spec.end_ids[i - 1]) return Bad("the end ids are not in ascending order");
  }
  if (spec.bos_id < kNone || spec.bos_id >= size) {
    return Bad(absl::StrCat("the first token's id ", spec.bos_id, " is not in 0 to ", size - 1));
  }
  if (spec.add_bos && spec.bos_id == kNone) {
    return Bad("texts shall begin with its first token (BOS), but it names none");
  }
  return absl::OkStatus();
}

}  // namespace

// The tokens of a word while they merge: a list linked by indices, and a heap of the pairs that
// can merge. Kept from word to word so that the memory is reused.
struct BpeTokenizer::Word {
  struct Symbol {
    int32_t id;  // kNone once it has become part of its left neighbour
    int64_t previous;
    int64_t next;
  };
  // A pair that could merge at `left` when this was made.
  struct Candidate {
    int32_t rank;
    int64_t left;
    bool operator>(const Candidate& other) const {
      return std::tie(rank, left) > std::tie(other.rank, other.left);
    }
  };

  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Make(TokenizerSpec spec) {
  PENSTOCK_RETURN_IF_ERROR(CheckSizes(spec));
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer);
  PENSTOCK_ASSIGN_OR_RETURN(tokenizer->pre_tokenizer_, PreTokenizer::Make(spec.pre_tokenizer));
  IdByName ids;
  ids.reserve(spec.tokens.size());
  PENSTOCK_RETURN_IF_ERROR(tokenizer->ReadTokens(spec, &ids));
  PENSTOCK_RETURN_IF_ERROR(tokenizer->ReadMerges(spec, ids));
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
    if (const auto [first, inserted] = ids->emplace(name, id); !inserted) {
      return Bad(absl::StrCat(Named(id, name), " is also token ", first->second));
    }
    const TokenType type = spec.types[i];
    switch (type) {
      case TokenType::kNormal:
        if (!AppendAlphabetBytes(name, &bytes_)) {
          return Bad(
              absl::StrCat(Named(id, name), " has characters outside GPT-2's byte alphabet"));
        }
        if (static_cast<int64_t>(bytes_.size()) == offsets_.back() + 1) {
          byte_ids_[static_cast<uint8_t>(bytes_.back())] = id;
        }
        break;
      case TokenType::kUserDefined:
      case TokenType::kControl:
      case TokenType::kUnknown: {
        // A name that is no UTF-8 could match in the middle of a character.
        if (name.empty() || FindInvalidUtf8(name)) {
          return Bad(absl::StrCat(Named(id, name), " is special, but its name is no UTF-8 text"));
        }
        const bool user_defined = type == TokenType::kUserDefined;
        if (user_defined) bytes_ += name;
        named_by_byte_[static_cast<uint8_t>(name[0])].push_back({name, id, user_defined});
        break;
      }
      case TokenType::kByte:
        return Bad(
            absl::StrCat(Named(id, name), " is of type byte, which byte-level BPE does not have"));
      case TokenType::kUnused:
        break;
    }
    offsets_.push_back(static_cast<int64_t>(bytes_.size()));
  }
  for (std::vector<NamedToken>& named : named_by_byte_) {
    std::sort(named.begin(), named.end(), [](const NamedToken& a, const NamedToken& b) {
      return a.name.size() > b.name.size();
    });
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::ReadMerges(const TokenizerSpec& spec, const IdByName& ids) {
  merges_.reserve(spec.merges.size());
  std::string merged;
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const std::string_view merge = spec.merges[i];
    const auto bad = [&](std::string_view what) {
      return Bad(absl::StrCat("merge ", i, " (", Quoted(merge), ")", Abs(what)));
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
        return bad(absl::StrCat(": ", Quoted(names[k]), " is not a normal token"));
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

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::EncodeParts(std::span<const TextPart> parts,
                                                               bool add_bos) const {
  std::string text;
  for (const TextPart& part : parts) text.append(part.text);
  if (const std::optional<int64_t> bad = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text is not UTF-8: the byte at offset ", *bad, " is wrong"));
  }
  std::vector<int32_t> ids;
  if (add_bos && first_id_ != kNone) ids.push_back(first_id_);
  size_t plain = 0;  // where the text begins that no control token has ended yet
  size_t end = 0;    // of the parts so far
  for (const TextPart& part : parts) {
    size_t at = end;
    end += part.text.size();
    while (part.parse_special && at < end) {
      size_t before = 0;
      const NamedToken* named =
          FindNamed(std::string_view(text).substr(at, end - at), true, &before);
      if (named == nullptr) break;
      at += before;
      if (!named->always) {
        PENSTOCK_RETURN_IF_ERROR(
            EncodePlain(std::string_view(text).substr(plain, at - plain), &ids));
        ids.push_back(named->id);
        plain = at + named->name.size();
      }
      at += named->name.size();
    }
  }
  PENSTOCK_RETURN_IF_ERROR(EncodePlain(std::string_view(text).substr(plain), &ids));
  return ids;
}

// Text in which only the names of user-defined tokens are theirs.
absl::Status BpeTokenizer::EncodePlain(std::string_view text, std::vector<int32_t>* ids) const {
  while (!text.empty()) {
    size_t at = 0;
    const NamedToken* named = FindNamed(text, /*parse_special=*/false, &at);
    PENSTOCK_RETURN_IF_ERROR(EncodeText(text.substr(0, at), ids));
    text.remove_prefix(at);
    if (named != nullptr) {
      ids->push_back(named->id);
      text.remove_prefix(named->name.size());
    }
  }
  return absl::OkStatus();
}

// The first token in `text` by its name, the longest of those that begin there, and where it
// begins; null and the text's size if there is none.
const BpeTokenizer::NamedToken* BpeTokenizer::FindNamed(std::string_view text, bool parse_special,
                                                        size_t* at) const {
  for (*at = 0; *at < text.size(); ++*at) {
    for (const NamedToken& named : named_by_byte_[static_cast<uint8_t>(text[*at])]) {
      if ((named.always || parse_special) &&
          text.compare(*at, named.name.size(), named.name) == 0) {
        return &named;
      }
    }
  }
  return nullptr;
}

absl::Status BpeTokenizer::EncodeText(std::string_view text, std::vector<int32_t>* ids) const {
  std::vector<std::string_view> words;
  PENSTOCK_RETURN_IF_ERROR(pre_tokenizer_->Split(text, &words));
  Word word;
  for (const std::string_view bytes : words) EncodeWord(bytes, &word, ids);
  return absl::OkStatus();
}

void BpeTokenizer::EncodeWord(std::string_view bytes, Word* word, std::vector<int32_t>* ids) const {
  std::vector<Word::Symbol>& symbols = word->symbols;
  std::vector<Word::Candidate>& heap = word->heap;
  symbols.clear();
  heap.clear();
  // Bytes without a token go before the merging, so that their neighbours may merge.
  for (const char byte : bytes) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    const auto at = static_cast<int64_t>(symbols.size());
    if (id != kNone) symbols.push_back({id, at - 1, at + 1});
  }
  const auto end = static_cast<int64_t>(symbols.size());
  const auto find = [&, this](int64_t left) -> const Merge* {
    if (left < 0 || symbols[left].next == end) return nullptr;
    const auto merge = merges_.find(PairKey(symbols[left].id, symbols[symbols[left].next].id));
    return merge == merges_.end() ? nullptr : &merge->second;
  };

  for (int64_t left = 0; left < end; ++left) {
    if (const Merge* merge = find(left)) heap.push_back({merge->rank, left});
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    const Word::Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    Word::Symbol& left = symbols[best.left];
    // An earlier merge may have taken either half. A rank belongs to one pair of tokens.
    if (left.id == kNone) continue;
    const Merge* still = find(best.left);
    if (still == nullptr || still->rank != best.rank) continue;

    left.id = still->id;
    symbols[left.next].id = kNone;
    left.next = symbols[left.next].next;
    if (left.next != end) symbols[left.next].previous = best.left;
    for (const int64_t pair : {left.previous, best.left}) {
      if (const Merge* merge = find(pair)) {
        heap.push_back({merge->rank, pair});
        std::push_heap(heap.begin(), heap.end(), std::greater<>());
      }
    }
  }
  for (int64_t at = 0; at < end; at = symbols[at].next) ids->push_back(symbols[at].id);
}

}  // namespace penstock
