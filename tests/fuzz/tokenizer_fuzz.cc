// Any bytes as a text: Encode refuses them exactly when they are not UTF-8, and else the tokens
// spell the text again, but for the bytes that have no token. Any bytes as token ids: what the
// streaming detokenizer gives is what all the bytes at once give.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/base/utf8.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/support/small_vocabulary.h"
#include "tests/support/utf8_reference.h"

namespace penstock {
namespace {

std::unique_ptr<Tokenizer> MakeSmallTokenizer(std::string_view pre_tokenizer) {
  TokenizerSpec spec = SmallVocabulary();
  spec.pre_tokenizer = std::string(pre_tokenizer);
  auto tokenizer = MakeTokenizer(std::move(spec));
  PENSTOCK_CHECK(tokenizer.ok());
  return std::move(tokenizer).value();
}

void CheckEncode(const Tokenizer& tokenizer, std::string_view text, bool parse_special) {
  static const auto* const spec = new TokenizerSpec(SmallVocabulary());
  const auto ids = tokenizer.Encode(text, parse_special);
  PENSTOCK_CHECK_EQ(ids.ok(), !FindInvalidUtf8(text).has_value());
  if (!ids.ok()) return;
  std::string spelled;
  for (const int32_t id : *ids) {
    const bool control = spec->types[id] == TokenizerSpec::TokenType::kControl ||
                         spec->types[id] == TokenizerSpec::TokenType::kUnknown;
    PENSTOCK_CHECK(parse_special || !control);
    spelled += control ? spec->tokens[id] : tokenizer.TokenBytes(id);
  }
  std::string expected;
  for (const char byte : text) {
    if (!HasNoToken(static_cast<uint8_t>(byte))) expected += byte;
  }
  PENSTOCK_CHECK_EQ(spelled, expected);
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
  static const auto* const gpt2 = penstock::MakeSmallTokenizer("gpt-2").release();
  static const auto* const smollm = penstock::MakeSmallTokenizer("smollm").release();
  if (size == 0) return 0;
  const penstock::Tokenizer& tokenizer = (data[0] & 1) != 0 ? *gpt2 : *smollm;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  penstock::CheckEncode(tokenizer, rest, (data[0] & 2) != 0);
  penstock::CheckDecode(tokenizer, rest);
  return 0;
}
