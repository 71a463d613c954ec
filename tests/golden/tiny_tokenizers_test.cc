// Small tokenizer.json and tokenizer.model files as Hugging Face and sentencepiece write them, each
// with its own settings, and the ids that they give (make_tiny_tokenizers.py).
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/io/tokenizer_folder.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/support/golden_json.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using Ids = std::vector<int32_t>;

class TinyTokenizerTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string folder = "tokenizers/tiny/" + GetParam();
    auto spec =
        ReadTokenizerFolder(PENSTOCK_SOURCE_DIR "/tests/golden/" + folder, /*vocab_size=*/0);
    ASSERT_TRUE(IsOk(spec));
    auto tokenizer = MakeTokenizer(*std::move(spec));
    ASSERT_TRUE(IsOk(tokenizer));
    tokenizer_ = *std::move(tokenizer);
    golden_ = ReadGolden(folder + "/ids.json");
    ASSERT_GE(golden_["cases"].size(), 200u);
  }
  bool IsSentencePiece() const { return GetParam().rfind("spm_", 0) == 0; }

  std::unique_ptr<Tokenizer> tokenizer_;
  nlohmann::json golden_;
};

TEST_P(TinyTokenizerTest, IdsAreThoseOfItsMaker) {
  for (const nlohmann::json& each : golden_["cases"]) {
    // sentencepiece knows no names of control tokens and leaves BOS to its caller.
    const std::string text = each["text"];
    const TextPart part{text, !IsSentencePiece()};
    const auto ids = tokenizer_->EncodeParts({&part, 1}, !IsSentencePiece());
    ASSERT_TRUE(IsOk(ids));
    EXPECT_EQ(nlohmann::json(*ids), each["ids"]) << each["text"];
  }
}

class TinySentencePieceTest : public TinyTokenizerTest {};

TEST_P(TinySentencePieceTest, TextIsThatOfItsMaker) {
  for (const nlohmann::json& each : golden_["cases"]) {
    const std::string expected = each["decoded"];
    if (expected.find("\xE2\x81\x87") != std::string::npos) continue;  // its sign for unknown
    EXPECT_EQ(Detokenize(*tokenizer_, Ids(each["ids"])), expected) << each["text"];
  }
}

TEST_P(TinyTokenizerTest, StreamingGivesTheWholeText) {
  for (const nlohmann::json& each : golden_["cases"]) {
    const Ids ids = each["ids"];
    std::string bytes;
    StreamingDetokenizer detokenizer(*tokenizer_);
    std::string text;
    for (const int32_t id : ids) {
      bytes += tokenizer_->TokenBytes(id);
      text += detokenizer.Add(id);
      ASSERT_EQ(bytes.compare(0, text.size(), text), 0) << each["text"];
    }
    EXPECT_EQ(text + detokenizer.Finish(), bytes) << each["text"];
  }
}

INSTANTIATE_TEST_SUITE_P(All, TinyTokenizerTest,
                         testing::Values("gpt2", "smollm", "llama3", "qwen2", "tekken", "llama2",
                                         "llama2_unknown", "metaspace_first", "metaspace_always",
                                         "metaspace_never", "spm_bytes", "spm_unknown",
                                         "spm_no_prefix", "spm_unused"),
                         [](const auto& test) { return test.param; });
INSTANTIATE_TEST_SUITE_P(All, TinySentencePieceTest,
                         testing::Values("spm_bytes", "spm_unknown", "spm_no_prefix", "spm_unused"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace penstock
