// Any bytes as a text: Encode refuses them exactly when they are not UTF-8, and else the tokens
// spell the text again, but for the bytes that have no token. Any bytes as token ids: what the
// streaming detokenizer gives is what all the bytes at once give.
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_replace.h"
#include "core/base/check.h"
#include "core/base/utf8.h"
#include "core/tokenizer/nfc.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/support/small_vocabulary.h"
#include "tests/support/utf8_reference.h"

namespace penstock {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

// A tokenizer and what it must spell a text as.
struct Target {
  TokenizerSpec spec;
  std::unique_ptr<Tokenizer> tokenizer;
};

Target Make(TokenizerSpec spec) {
  auto tokenizer = MakeTokenizer(spec);
  PENSTOCK_CHECK(tokenizer.ok());
  return {std::move(spec), std::move(tokenizer).value()};
}

Target ByteLevel(std::string_view pre_tokenizer) {
  TokenizerSpec spec = SmallVocabulary();
  spec.pre_tokenizer = std::string(pre_tokenizer);
  spec.ignore_merges = pre_tokenizer == "llama-bpe";
  spec.normalize_nfc = pre_tokenizer == "qwen2";
  return Make(std::move(spec));
}

Target SentencePiece() {
  using Type = TokenizerSpec::TokenType;
  TokenizerSpec spec;
  spec.model = "llama";
  spec.space_prefix = TokenizerSpec::SpacePrefix::kNone;
  AddToken("<unk>", Type::kUnknown, &spec);
  AddToken("<|end|>", Type::kControl, &spec);
  AddToken("<tool>", Type::kUserDefined, &spec);
  for (int byte = 0; byte < 256; ++byte) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    const char name[] = {'<', '0', 'x', kDigits[byte / 16], kDigits[byte % 16], '>'};
    AddToken({name, sizeof(name)}, Type::kByte, &spec);
  }
  const std::string space(kSpaceSymbol);
  for (const std::string& name : {space, space + "a", space + space, std::string("a"),
                                  std::string("aa"), std::string("aaa"), std::string("<")}) {
    AddToken(name, Type::kNormal, &spec);
  }
  AddToken("aaaa", Type::kUnused, &spec);
  for (size_t i = 0; i < spec.tokens.size(); ++i) spec.scores.push_back(static_cast<float>(i % 7));
  return Make(std::move(spec));
}

std::string Expected(const Target& target, std::string_view text) {
  if (target.spec.model == "llama") {
    return absl::StrReplaceAll(Abs(text), {{Abs(kSpaceSymbol), " "}});
  }
  std::string expected;
  for (const char byte : text) {
    if (!HasNoToken(static_cast<uint8_t>(byte))) expected += byte;
  }
  return expected;
}

void CheckEncode(const Target& target, std::string_view text, bool parse_special) {
  const auto ids = target.tokenizer->Encode(text, parse_special);
  PENSTOCK_CHECK_EQ(ids.ok(), !FindInvalidUtf8(text).has_value());
  if (!ids.ok()) return;
  std::string spelled;
  for (const int32_t id : *ids) {
    const bool control = target.spec.types[id] == TokenizerSpec::TokenType::kControl ||
                         target.spec.types[id] == TokenizerSpec::TokenType::kUnknown;
    PENSTOCK_CHECK(parse_special || !control);
    spelled += control ? target.spec.tokens[id] : target.tokenizer->TokenBytes(id);
  }
  if (target.spec.normalize_nfc && !IsCertainlyNfc(text)) {
    // Names of tokens are cut out before, so that only what lies between is normalized.
    spelled = NormalizeNfc(ReplaceInvalidUtf8(spelled));
    PENSTOCK_CHECK_EQ(NormalizeNfc(spelled), spelled);
    return;
  }
  PENSTOCK_CHECK_EQ(spelled, Expected(target, text));
}

void CheckDecode(const Tokenizer& tokenizer, std::string_view bytes) {
  std::vector<int32_t> ids;
  std::string spelled;
  for (const char byte : bytes) {
    ids.push_back(static_cast<uint8_t>(byte));  // the vocabulary is larger than a byte
    spelled += tokenizer.TokenBytes(ids.back());
  }
  PENSTOCK_CHECK_EQ(Detokenize(tokenizer, ids), ReplaceInvalidUtf8(spelled));
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using penstock::ByteLevel;
  static const penstock::Target targets[] = {ByteLevel("gpt-2"),     ByteLevel("smollm"),
                                             ByteLevel("llama-bpe"), ByteLevel("qwen2"),
                                             ByteLevel("tekken"),    penstock::SentencePiece()};
  if (size == 0) return 0;
  const penstock::Target& target = targets[(data[0] >> 1) % std::size(targets)];
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  penstock::CheckEncode(target, rest, (data[0] & 1) != 0);
  penstock::CheckDecode(*target.tokenizer, rest);
  return 0;
}
