// Fuzz target: any bytes as a sentencepiece model. What is read of it makes a tokenizer or is
// refused, and the tokenizer gives ids of its own for any text.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/check.h"
#include "core/io/sentencepiece_model.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/fuzz/check_message.h"
#include "tests/fuzz/mutator.h"
#include "tests/support/sentencepiece_builder.h"

namespace penstock {
namespace {

constexpr std::string_view kName = "tokenizer.model";
constexpr int64_t kRows = 300;

void CheckSpec(TokenizerSpec spec, int64_t vocab_size) {
  const auto size = static_cast<int64_t>(spec.tokens.size());
  PENSTOCK_CHECK_EQ(static_cast<int64_t>(spec.types.size()), size);
  PENSTOCK_CHECK_EQ(static_cast<int64_t>(spec.scores.size()), size);
  if (vocab_size > 0) PENSTOCK_CHECK_EQ(size, vocab_size);
  const auto tokenizer = MakeTokenizer(std::move(spec));
  if (!tokenizer.ok()) return fuzz::CheckMessage(tokenizer.status(), "vocabulary");
  for (const bool parse_special : {false, true}) {
    const auto ids = (*tokenizer)->Encode("  hello<s> llllo \xC3\xA9<tool>  x ", parse_special);
    PENSTOCK_CHECK(ids.ok());
    for (const int32_t id : *ids) {
      PENSTOCK_CHECK_GE(id, 0);
      PENSTOCK_CHECK_LT(static_cast<int64_t>(id), size);
    }
    Detokenize(**tokenizer, *ids);
  }
}

std::string Seed(bool bytes) {
  SentencePieceBuilder model = TinySentencePiece();
  model.Piece("<tool>", 0, SentencePieceBuilder::kUserDefined);
  model.Piece("lll", -0.5F, SentencePieceBuilder::kUnused).Piece("llll", -0.25F);
  constexpr char kDigits[] = "0123456789ABCDEF";
  for (int byte = 0; bytes && byte < 256; ++byte) {
    const char name[] = {'<', '0', 'x', kDigits[byte / 16], kDigits[byte % 16], '>'};
    model.Piece({name, sizeof(name)}, 0, SentencePieceBuilder::kByte);
  }
  if (bytes) model.trainer.Varint(35, 1);
  model.trainer.Varint(24, 0).Bytes(46, "<s>").Bytes(47, "</s>");
  model.normalizer.Bytes(1, "identity").Bytes(2, "").Varint(3, 1).Varint(5, 1);
  return model.Build();
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace penstock;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (const int64_t vocab_size : {int64_t{0}, kRows}) {
    auto spec = ParseSentencePieceModel(std::string(kName), bytes, vocab_size);
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
      "\x0A",
      {penstock::Seed(false), penstock::Seed(false), penstock::Seed(false), penstock::Seed(true)},
      {"hello", "ll", "l", "\xE2\x96\x81", "\xE2\x96\x81hello", "<unk>", "<s>", "</s>", "<0x41>",
       "<0x00>", "<tool>", "\xFF", "", "<|eot_id|>"},
      penstock::fuzz::MutateWire};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
