// The packaged model's tokenizer against the ids that Hugging Face's `tokenizers` gave for a few
// thousand strings (tests/golden/make_tokenizer.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/io/gguf.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using Ids = std::vector<int32_t>;

class TokenizerGoldenTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string path = PENSTOCK_TEST_MODEL;
    ASSERT_FALSE(path.empty()) << "no model to test with: run scripts/fetch-model, then configure "
                                  "with -DPENSTOCK_MODEL=<the path it prints>";
    const auto file = GgufFile::Open(path);
    ASSERT_TRUE(IsOk(file)) << "run scripts/fetch-model";
    auto spec = ReadGgufTokenizer(**file);
    ASSERT_TRUE(IsOk(spec));
    auto tokenizer = MakeTokenizer(*std::move(spec));
    ASSERT_TRUE(IsOk(tokenizer));
    tokenizer_ = std::move(*tokenizer);

    const std::string golden = PENSTOCK_SOURCE_DIR "/tests/golden/smollm2_tokenizer.json";
    std::ifstream stream(golden);
    const auto json = nlohmann::json::parse(stream, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(json.is_object() && json.contains("cases")) << golden << " is missing or broken";
    cases_ = json["cases"];
    ASSERT_GE(cases_.size(), 2000u) << golden;
  }
  static void TearDownTestSuite() {
    tokenizer_.reset();
    cases_.clear();
  }
  void SetUp() override { ASSERT_NE(tokenizer_, nullptr) << "run scripts/fetch-model"; }

  static Ids Encode(const std::string& text, bool parse_special) {
    const auto ids = tokenizer_->Encode(text, parse_special);
    EXPECT_TRUE(IsOk(ids));
    return ids.ok() ? *ids : Ids();
  }

  static std::unique_ptr<Tokenizer> tokenizer_;
  static nlohmann::json cases_;
};

std::unique_ptr<Tokenizer> TokenizerGoldenTest::tokenizer_;
nlohmann::json TokenizerGoldenTest::cases_;

TEST_F(TokenizerGoldenTest, IdsAreThoseOfHuggingFace) {
  int parted = 0;
  for (const nlohmann::json& each : cases_) {
    const std::string text = each["text"];
    const Ids special = each["special"];
    const Ids plain = each.contains("plain") ? Ids(each["plain"]) : special;
    EXPECT_EQ(Encode(text, true), special) << each["text"];
    EXPECT_EQ(Encode(text, false), plain) << each["text"];
    if (special != plain) ++parted;
  }
  EXPECT_GE(parted, 100) << "too few cases with the names of special tokens";
}

TEST_F(TokenizerGoldenTest, TextComesBack) {
  std::array<bool, 256> has_token{};
  for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    const std::string_view bytes = tokenizer_->TokenBytes(id);
    if (bytes.size() == 1) has_token[static_cast<uint8_t>(bytes[0])] = true;
  }
  EXPECT_EQ(std::count(has_token.begin(), has_token.end(), false), 21);

  int decoded = 0;
  int whole = 0;
  for (const nlohmann::json& each : cases_) {
    const std::string text = each["text"];
    const std::string back = Detokenize(*tokenizer_, Encode(text, false));
    if (each.contains("decoded")) {
      EXPECT_EQ(back, std::string(each["decoded"])) << each["text"];
      ++decoded;
    }
    if (std::all_of(text.begin(), text.end(),
                    [&](char byte) { return has_token[static_cast<uint8_t>(byte)]; })) {
      EXPECT_EQ(back, text);
      ++whole;
    }
  }
  EXPECT_GE(decoded, 500);
  EXPECT_GE(whole, 1500);
}

TEST_F(TokenizerGoldenTest, EndTokens) {
  EXPECT_EQ(tokenizer_->end_ids(), Ids({0, 2, 4}));
  EXPECT_EQ(tokenizer_->vocab_size(), 49152);
  EXPECT_EQ(Encode("<|im_start|>user\n", true).front(), 1);
  EXPECT_EQ(tokenizer_->TokenBytes(2), "");
}

}  // namespace
}  // namespace penstock
