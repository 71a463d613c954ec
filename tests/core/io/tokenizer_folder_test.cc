// The tokenizer of a folder: which file counts, and what the files beside it add.
#include "core/io/tokenizer_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/sentencepiece_builder.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tokenizer_json_text.h"

namespace penstock {
namespace {

using absl::StatusCode;
using Ids = std::vector<int32_t>;

class TokenizerFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "tokenizer_folder_test." + std::to_string(getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, std::string_view text) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << text;
  }
  absl::StatusOr<TokenizerSpec> Read(int64_t vocab_size = 0) const {
    return ReadTokenizerFolder(folder_, vocab_size);
  }

  std::string folder_;
};

TEST_F(TokenizerFolderTest, TokenizerJsonCountsThenTokenizerModel) {
  EXPECT_TRUE(Fails(Read(), StatusCode::kNotFound, {"tokenizer.json", "tokenizer.model"}));
  Write("tokenizer.model", TinySentencePiece().Build());
  EXPECT_EQ(Read()->tokens.size(), 13u);
  Write("tokenizer.json", kByteLevelTokenizerJson);
  EXPECT_EQ(Read()->tokens.size(), 7u);
  EXPECT_EQ(Read(9)->tokens.size(), 9u);
  // A step that is not supported, but not a broken file, leaves it to tokenizer.model.
  Write("tokenizer.json", Replaced(kByteLevelTokenizerJson, "{1,3}", "{1,4}"));
  EXPECT_EQ(Read()->tokens.size(), 13u);
  Write("tokenizer.json", Replaced(kByteLevelTokenizerJson, "\"e\": 1", "\"e\": 99"));
  EXPECT_TRUE(Fails(Read(), StatusCode::kInvalidArgument, {"tokenizer.json"}));
}

TEST_F(TokenizerFolderTest, TokenizerConfigNamesFirstAndLastToken) {
  Write("tokenizer.json",
        Replaced(kByteLevelTokenizerJson, "\"TemplateProcessing\"", "\"ByteLevel\""));
  EXPECT_FALSE(Read()->add_bos);
  Write("tokenizer_config.json",
        R"({"add_bos_token": true, "bos_token": {"content": "h"}, "eos_token": "[TOOL]",
            "chat_template": "{{ x }}"})");
  const auto spec = Read();
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->bos_id, 0);
  EXPECT_TRUE(spec->add_bos);
  EXPECT_EQ(spec->end_ids, Ids({6}));
  EXPECT_EQ(spec->chat_template, "{{ x }}");

  Write("tokenizer.json", kByteLevelTokenizerJson);
  Write("tokenizer_config.json", R"({"add_bos_token": false})");
  EXPECT_FALSE(Read()->add_bos);
  Write("tokenizer_config.json", R"({"bos_token": null})");
  EXPECT_TRUE(Read()->add_bos);
}

TEST_F(TokenizerFolderTest, EndIdsComeFromTheGenerationConfigOrElseTheConfig) {
  Write("tokenizer.json", kByteLevelTokenizerJson);
  Write("config.json", R"({"eos_token_id": 2})");
  EXPECT_EQ(Read()->end_ids, Ids({2}));
  Write("generation_config.json", R"({"eos_token_id": [4, 3, 4]})");
  EXPECT_EQ(Read()->end_ids, Ids({3, 4}));
  Write("generation_config.json", R"({"temperature": 0.6})");
  EXPECT_EQ(Read()->end_ids, Ids({2}));
  Write("tokenizer.json", Replaced(kByteLevelTokenizerJson, "\"[TOOL]\"", "\"<|eot_id|>\""));
  EXPECT_EQ(Read()->end_ids, Ids({2}));  // by name only where it is a control token
}

TEST_F(TokenizerFolderTest, ChatTemplateFileComesBeforeAllOthers) {
  Write("tokenizer.json", kByteLevelTokenizerJson);
  Write("tokenizer_config.json",
        R"({"chat_template": [{"name": "tool_use", "template": "T"},
                              {"name": "default", "template": "D"}]})");
  EXPECT_EQ(Read()->chat_template, "D");
  Write("chat_template.jinja", "F\n");
  EXPECT_EQ(Read()->chat_template, "F\n");
  Write("chat_template.jinja", "\xFF");
  EXPECT_TRUE(Fails(Read(), StatusCode::kInvalidArgument, {"chat_template.jinja", "offset 0"}));
}

TEST_F(TokenizerFolderTest, SettingsThatAreWrongAreRefused) {
  Write("tokenizer.json", kByteLevelTokenizerJson);
  const std::string_view configs[][2] = {
      {R"({"bos_token": "<s>"})", "bos_token is '<s>', which is no token"},
      {R"({"eos_token": 7})", "eos_token is 7; a string is expected"},
      {R"({"add_bos_token": "yes"})", "add_bos_token is 'yes'"},
      {R"({"chat_template": 7})", "chat_template is 7"},
      {R"({"chat_template": [{"name": "default"}]})", "'template'"},
      {"[]", "an object is expected"},
      {"{", "tokenizer_config.json"},
  };
  for (const auto& [config, word] : configs) {
    Write("tokenizer_config.json", config);
    EXPECT_TRUE(Fails(Read(), StatusCode::kInvalidArgument, {"/tokenizer_config.json", word}));
  }
  Write("tokenizer_config.json", R"({"add_eos_token": true})");
  EXPECT_TRUE(Fails(Read(), StatusCode::kUnimplemented, {"add_eos_token"}));
  Write("tokenizer_config.json", "{}");
  for (const std::string_view ids : {"7", "-1", "\"x\"", "[1, 7]", "[null]"}) {
    Write("generation_config.json", "{\"eos_token_id\": " + std::string(ids) + "}");
    EXPECT_TRUE(Fails(Read(), StatusCode::kInvalidArgument,
                      {"/generation_config.json: eos_token_id", "is expected"}));
  }
}

}  // namespace
}  // namespace penstock
