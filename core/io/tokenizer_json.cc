#include "core/io/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/base/quoted.h"
#include "core/io/tokenizer_file.h"
#include "core/io/tokenizer_json_steps.h"
#include "core/model/model_config.h"
#include "core/tokenizer/byte_alphabet.h"

namespace penstock {
namespace {

using TokenType = TokenizerSpec::TokenType;

class Parser {
 public:
  Parser(const JsonDocument& document, int64_t vocab_size, TokenizerSpec* spec)
      : document_(document), vocab_size_(vocab_size), spec_(*spec) {}

  absl::Status Parse() {
    const JsonValue root = document_.root();
    PENSTOCK_ASSIGN_OR_RETURN(const JsonValue model, root.Get("model"));
    PENSTOCK_RETURN_IF_ERROR(ReadTokenizerSteps(document_, &spec_));
    PENSTOCK_RETURN_IF_ERROR(CheckModel(model));
    PENSTOCK_RETURN_IF_ERROR(ReadTokens(root, model));
    PENSTOCK_RETURN_IF_ERROR(ReadUnknown(model));
    PENSTOCK_RETURN_IF_ERROR(ReadMerges(model));
    PENSTOCK_ASSIGN_OR_RETURN(const std::string first, ReadFirstToken(document_));
    if (!first.empty()) {
      const auto found = ids_.find(first);
      if (found == ids_.end()) {
        return Bad("post_processor", "puts " + Quoted(first) + " before texts, which is no token");
      }
      spec_.bos_id = found->second;
      spec_.add_bos = true;
    }
    return PadTokens(document_.name(), vocab_size_, &spec_);
  }

 private:
  absl::Status Bad(std::string_view path, const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(document_.name(), ": ", Abs(path), " ", what));
  }
  absl::Status Unsupported(std::string_view path, const std::string& what) const {
    return absl::UnimplementedError(
        absl::StrCat(document_.name(), ": ", Abs(path), " ", what, ", which is not supported"));
  }

  absl::Status CheckModel(JsonValue model) const;
  absl::Status ReadTokens(JsonValue root, JsonValue model);
  absl::Status ReadAdded(JsonValue token);
  absl::Status ReadUnknown(JsonValue model);
  absl::Status ReadMerges(JsonValue model);
  absl::StatusOr<int64_t> CheckId(JsonValue id) const;
  bool MayMerge(std::string_view left, std::string_view right) const;

  const JsonDocument& document_;
  const int64_t vocab_size_;
  int64_t most_tokens_ = 0;
  TokenizerSpec& spec_;
  absl::flat_hash_map<std::string_view, int32_t> ids_;  // views into the document
};

absl::Status Parser::CheckModel(JsonValue model) const {
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view type, model.StringOr("type", "BPE"));
  if (type != "BPE") return Unsupported("model.type", "is " + Quoted(type) + "; only BPE is known");
  PENSTOCK_ASSIGN_OR_RETURN(const double dropout, model.NumberOr("dropout", 0));
  if (dropout != 0) return Unsupported("model.dropout", "is not 0");
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view mark, model.StringOr(key, ""));
    if (!mark.empty()) {
      return Unsupported(absl::StrCat("model.", Abs(key)), "is " + Quoted(mark));
    }
  }
  PENSTOCK_ASSIGN_OR_RETURN(const bool byte_fallback, model.BoolOr("byte_fallback", false));
  if (byte_fallback && spec_.model == "gpt2") {
    return Unsupported("model.byte_fallback", "is true in byte-level BPE");
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Parser::CheckId(JsonValue id) const {
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t value, id.AsInt());
  if (value < 0 || value >= most_tokens_) {
    return Bad(id.Path(),
               absl::StrCat("is ", value, "; an id from 0 to ", most_tokens_ - 1, " is expected"));
  }
  return value;
}

absl::Status Parser::ReadTokens(JsonValue root, JsonValue model) {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue vocab, model.Get("vocab"));
  PENSTOCK_RETURN_IF_ERROR(vocab.CheckObject());
  const auto added = root.Find("added_tokens");
  if (added) PENSTOCK_RETURN_IF_ERROR(added->CheckArray());
  // Without a size from elsewhere there may be no gaps: memory stays in proportion to the file.
  most_tokens_ = vocab_size_ == 0 ? vocab.size() + (added ? added->size() : 0) : vocab_size_;
  most_tokens_ = std::min(most_tokens_, kMaxVocabSize);

  PENSTOCK_ASSIGN_OR_RETURN(const bool byte_fallback, model.BoolOr("byte_fallback", false));
  spec_.tokens.resize(static_cast<size_t>(most_tokens_));
  spec_.types.resize(static_cast<size_t>(most_tokens_), TokenType::kUnused);
  ids_.reserve(static_cast<size_t>(vocab.size()));
  for (int64_t i = 0; i < vocab.size(); ++i) {
    const JsonValue token = vocab.at(i);
    PENSTOCK_ASSIGN_OR_RETURN(const int64_t id, CheckId(token));
    if (token.key().empty()) return Bad(token.Path(), "is a token with an empty name");
    if (spec_.types[id] != TokenType::kUnused) {
      return Bad(token.Path(),
                 absl::StrCat("is ", id, ", which is also the id of ", Quoted(spec_.tokens[id])));
    }
    spec_.tokens[id] = std::string(token.key());
    const bool byte = byte_fallback && ByteOfTokenName(token.key()) >= 0;
    spec_.types[id] = byte ? TokenType::kByte : TokenType::kNormal;
    ids_.emplace(token.key(), static_cast<int32_t>(id));
  }
  for (int64_t i = 0; added && i < added->size(); ++i) {
    PENSTOCK_RETURN_IF_ERROR(ReadAdded(added->at(i)));
  }
  while (!spec_.types.empty() && spec_.types.back() == TokenType::kUnused) {
    spec_.types.pop_back();
    spec_.tokens.pop_back();
  }
  const auto gap = std::find(spec_.types.begin(), spec_.types.end(), TokenType::kUnused);
  if (vocab_size_ == 0 && gap != spec_.types.end()) {
    return Bad("model.vocab", absl::StrCat("has no token with the id ", gap - spec_.types.begin()));
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadAdded(JsonValue token) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view name, token.String("content"));
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue id_value, token.Get("id"));
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t id, CheckId(id_value));
  PENSTOCK_ASSIGN_OR_RETURN(const bool special, token.BoolOr("special", false));
  PENSTOCK_ASSIGN_OR_RETURN(const bool normalized, token.BoolOr("normalized", !special));
  for (const std::string_view key : {"lstrip", "rstrip", "single_word"}) {
    PENSTOCK_ASSIGN_OR_RETURN(const bool set, token.BoolOr(key, false));
    if (set) return Unsupported(token.Path(), absl::StrCat("has ", Abs(key), " set"));
  }
  // Its name would be normalized before it is looked for. NFC leaves ASCII alone.
  const bool ascii = std::all_of(name.begin(), name.end(),
                                 [](char byte) { return static_cast<uint8_t>(byte) < 0x80; });
  const bool replaced = spec_.model == "llama" && document_.root().Find("normalizer").has_value();
  if (normalized && (replaced || (spec_.normalize_nfc && !ascii))) {
    return Unsupported(token.Path(), "is to be found in normalized text");
  }
  const bool taken = spec_.types[id] != TokenType::kUnused;
  const auto known = ids_.find(name);
  if ((taken && spec_.tokens[id] != name) || (known != ids_.end() && known->second != id)) {
    return Bad(token.Path(),
               absl::StrCat("has the id ", id, ", but ",
                            taken ? "that is the id of " + Quoted(spec_.tokens[id])
                                  : absl::StrCat(Quoted(name), " is token ", known->second)));
  }
  spec_.tokens[id] = std::string(name);
  spec_.types[id] = special ? TokenType::kControl : TokenType::kUserDefined;
  ids_.emplace(name, static_cast<int32_t>(id));
  return absl::OkStatus();
}

absl::Status Parser::ReadUnknown(JsonValue model) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view name, model.StringOr("unk_token", ""));
  if (name.empty()) return absl::OkStatus();
  const auto found = ids_.find(name);
  if (found == ids_.end()) {
    return Bad("model.unk_token", "is " + Quoted(name) + ", which is no token");
  }
  if (spec_.model == "gpt2") {
    // With a token for every byte nothing is unknown.
    for (int byte = 0; byte < 256; ++byte) {
      const auto value = static_cast<char>(byte);
      if (!ids_.contains(BytesToAlphabet({&value, 1}))) {
        return Unsupported("model.unk_token",
                           absl::StrCat("is given, and byte ", byte, " has no token"));
      }
    }
    return absl::OkStatus();
  }
  PENSTOCK_ASSIGN_OR_RETURN(const bool fuse, model.BoolOr("fuse_unk", false));
  PENSTOCK_ASSIGN_OR_RETURN(const bool byte_fallback, model.BoolOr("byte_fallback", false));
  if (!fuse && !byte_fallback) return Unsupported("model.fuse_unk", "is not true");
  spec_.types[found->second] = TokenType::kUnknown;
  return absl::OkStatus();
}

// False for a merge of or into a token that is not normal: text must not become a control token by
// way of a merge, and where the name of an added token stands in a text no merge gets to see it.
bool Parser::MayMerge(std::string_view left, std::string_view right) const {
  const std::string merged = absl::StrCat(Abs(left), Abs(right));
  for (const std::string_view name : {left, right, std::string_view(merged)}) {
    const auto found = ids_.find(name);
    if (found != ids_.end() && spec_.types[found->second] != TokenType::kNormal) return false;
  }
  return true;
}

absl::Status Parser::ReadMerges(JsonValue model) {
  PENSTOCK_ASSIGN_OR_RETURN(spec_.ignore_merges, model.BoolOr("ignore_merges", false));
  if (spec_.ignore_merges && spec_.model == "llama") {
    return Unsupported("model.ignore_merges", "is true in a model of sentencepiece's kind");
  }
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue merges, model.Get("merges"));
  PENSTOCK_RETURN_IF_ERROR(merges.CheckArray());
  if (merges.size() == 0 && spec_.model == "llama") return Bad("model.merges", "has no merges");
  spec_.merges.reserve(static_cast<size_t>(merges.size()));
  for (int64_t i = 0; i < merges.size(); ++i) {
    const JsonValue merge = merges.at(i);
    std::array<std::string_view, 2> halves;
    if (merge.is_array() && merge.size() == 2) {
      for (int k = 0; k < 2; ++k) {
        PENSTOCK_ASSIGN_OR_RETURN(halves[k], merge.at(k).AsString());
      }
    } else if (merge.is_string()) {
      const std::string_view text = *merge.AsString();
      const size_t space = std::min(text.find(' '), text.size());
      halves = {text.substr(0, space), text.substr(std::min(space + 1, text.size()))};
    } else {
      return merge.Unexpected("a pair of tokens, or a string of two with a space between");
    }
    for (const std::string_view half : halves) {
      if (half.empty() || half.find(' ') != std::string_view::npos) {
        return merge.Unexpected("two tokens without spaces");
      }
    }
    if (MayMerge(halves[0], halves[1])) {
      spec_.merges.push_back(absl::StrCat(Abs(halves[0]), " ", Abs(halves[1])));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ParseTokenizerJson(const JsonDocument& document, int64_t vocab_size) {
  TokenizerSpec spec;
  PENSTOCK_RETURN_IF_ERROR(Parser(document, vocab_size, &spec).Parse());
  return spec;
}

}  // namespace penstock
