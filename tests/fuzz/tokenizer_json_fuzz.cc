// Fuzz target: any text as a tokenizer.json. What is read of it makes a tokenizer or is refused,
// and the tokenizer gives ids of its own for any text.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/check.h"
#include "core/io/tokenizer_json.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/fuzz/check_message.h"
#include "tests/fuzz/mutator.h"
#include "tests/support/tokenizer_json_text.h"

namespace penstock {
namespace {

constexpr std::string_view kName = "tokenizer.json";
constexpr int64_t kRows = 40;

void CheckSpec(TokenizerSpec spec, int64_t vocab_size) {
  const auto size = static_cast<int64_t>(spec.tokens.size());
  PENSTOCK_CHECK_EQ(static_cast<int64_t>(spec.types.size()), size);
  if (vocab_size > 0) PENSTOCK_CHECK_EQ(size, vocab_size);
  PENSTOCK_CHECK_LT(spec.bos_id, size);
  PENSTOCK_CHECK(!spec.add_bos || spec.bos_id >= 0);
  const auto tokenizer = MakeTokenizer(std::move(spec));
  if (!tokenizer.ok()) return fuzz::CheckMessage(tokenizer.status(), "vocabulary");
  for (const bool parse_special : {false, true}) {
    const auto ids = (*tokenizer)->Encode("hey <|begin|> hi AZz[TOOL]e\xCC\x81", parse_special);
    PENSTOCK_CHECK(ids.ok());
    for (const int32_t id : *ids) {
      PENSTOCK_CHECK_GE(id, 0);
      PENSTOCK_CHECK_LT(static_cast<int64_t>(id), size);
    }
    Detokenize(**tokenizer, *ids);
  }
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace penstock;
  const auto document =
      JsonDocument::Parse(std::string(kName), {reinterpret_cast<const char*>(data), size});
  if (!document.ok()) {
    fuzz::CheckMessage(document.status(), kName);
    return 0;
  }
  for (const int64_t vocab_size : {int64_t{0}, kRows}) {
    auto spec = ParseTokenizerJson(**document, vocab_size);
    if (spec.ok()) {
      CheckSpec(*std::move(spec), vocab_size);
    } else {
      fuzz::CheckMessage(spec.status(), kName);
    }
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using penstock::fuzz::Format;
  static const auto* const format = new Format{
      "{",
      {std::string(penstock::kByteLevelTokenizerJson), std::string(penstock::kSpacedTokenizerJson),
       penstock::Replaced(penstock::kByteLevelTokenizerJson, "\"normalizer\": null",
                          R"("normalizer": {"type": "NFC"})"),
       R"({"model": {"vocab": {"a": 0}, "merges": []},)"
       R"( "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}})",
       R"({"model": {"vocab": {"a": 0, "\u2581": 1, "\u2581a": 2}, "merges": ["\u2581 a"]},)"
       R"( "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "split": false,)"
       R"( "prepend_scheme": "first"}})"},
      {"h",
       "he",
       "hey",
       "\xE2\x96\x81",
       "<|begin|>",
       "[TOOL]",
       "<0x41>",
       "<0x00>",
       "<unk>",
       "Sequence",
       "ByteLevel",
       "Split",
       "Digits",
       "NFC",
       "Prepend",
       "Replace",
       "Metaspace",
       "first",
       "always",
       "never",
       "Regex",
       "String",
       "content",
       "individual_digits",
       "special",
       "lstrip",
       "normalized",
       "merges",
       "vocab",
       "ignore_merges",
       "fuse_unk",
       "use_regex",
       "unk_token",
       "SpecialToken",
       "byte_fallback",
       "TemplateProcessing"},
      penstock::fuzz::MutateJson};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
