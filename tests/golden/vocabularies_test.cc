// The vocabularies of other families against the ids of PyPI's `tokenizers` and `sentencepiece`
// (make_tokenizers.py) and llama.cpp's own examples. scripts/fetch-vocabularies fetches them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_split.h"
#include "core/io/gguf.h"
#include "core/io/json.h"
#include "core/io/sentencepiece_model.h"
#include "core/io/tokenizer_json.h"
#include "core/tokenizer/pre_tokenizer.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/support/golden_json.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using Ids = std::vector<int32_t>;
using Json = nlohmann::json;
using Type = TokenizerSpec::TokenType;

std::string VocabularyPath(const std::string& name) {
  const std::string folder = PENSTOCK_TEST_VOCABULARIES;
  EXPECT_FALSE(folder.empty()) << "no vocabularies to test with: run scripts/fetch-vocabularies, "
                                  "then configure with -DPENSTOCK_VOCABULARIES=<what it prints>";
  return folder + "/" + name;
}

std::string GgufName(const std::string& name) { return "ggml-vocab-" + name + ".gguf"; }

TokenizerSpec ReadSpec(const std::string& file) {
  const std::string path = VocabularyPath(file);
  absl::StatusOr<TokenizerSpec> spec;
  if (file.find(".gguf") == std::string::npos) {
    spec = ReadSentencePieceModel(path, /*vocab_size=*/0);
  } else {
    const auto gguf = GgufFile::Open(path);
    EXPECT_TRUE(IsOk(gguf)) << "run scripts/fetch-vocabularies";
    if (gguf.ok()) spec = ReadGgufTokenizer(**gguf);
  }
  EXPECT_TRUE(IsOk(spec)) << "run scripts/fetch-vocabularies";
  return spec.ok() ? *spec : TokenizerSpec();
}

std::unique_ptr<Tokenizer> Make(TokenizerSpec spec) {
  auto tokenizer = MakeTokenizer(std::move(spec));
  EXPECT_TRUE(IsOk(tokenizer));
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

Ids Encode(const Tokenizer& tokenizer, const std::string& text, bool parse_special) {
  const TextPart part{text, parse_special};
  const auto ids = tokenizer.EncodeParts({&part, 1}, /*add_bos=*/false);
  EXPECT_TRUE(IsOk(ids));
  return ids.ok() ? *ids : Ids();
}

const Json& Strings() {
  static const auto* const strings = new Json(ReadGolden("tokenizers/strings.json"));
  return *strings;
}

// A case has the ids with special tokens parsed under `key`, or else "special", or else they are
// the plain ones.
void ExpectGolden(const Tokenizer& tokenizer, const std::string& golden_name,
                  const char* key = "special") {
  const Json golden = ReadGolden("tokenizers/" + golden_name + ".json");
  ASSERT_TRUE(golden.is_object());
  const Json& cases = golden["cases"];
  ASSERT_GE(cases.size(), 5000u);
  ASSERT_EQ(cases.size(), Strings().size());
  for (size_t i = 0; i < cases.size(); ++i) {
    const std::string text = Strings()[i];
    const Json& plain = cases[i]["plain"];
    EXPECT_EQ(Folded(Encode(tokenizer, text, false)), plain) << Strings()[i];
    const Json* special = &plain;
    for (const char* each : {"special", key}) {
      if (cases[i].contains(each)) special = &cases[i][each];
    }
    EXPECT_EQ(Folded(Encode(tokenizer, text, true)), *special) << Strings()[i];
  }
}

// (file, golden file)
class VocabularyTest : public testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(VocabularyTest, IdsAreThoseOfTheirOwnTokenizer) {
  const auto tokenizer = Make(ReadSpec(GetParam().first));
  ASSERT_NE(tokenizer, nullptr);
  ExpectGolden(*tokenizer, GetParam().second);
}

INSTANTIATE_TEST_SUITE_P(
    All, VocabularyTest,
    testing::Values(std::pair(GgufName("gpt-2"), "gpt-2"),
                    std::pair(GgufName("llama-bpe"), "llama-bpe"),
                    std::pair(GgufName("qwen2"), "qwen2"),
                    std::pair(GgufName("llama-spm"), "llama-spm"),
                    std::pair("tokenizer.model.v1", "mistral-v1"),
                    std::pair("mistral_instruct_tokenizer_240323.model.v3", "mistral-v3"),
                    std::pair("mistral_instruct_tokenizer_241114.model.v7", "mistral-v7")));

// llama.cpp's own examples: texts between separator lines, ids a line.
class LlamaCppTest : public testing::TestWithParam<std::string> {};

std::string ReadText(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

TEST_P(LlamaCppTest, IdsAreThoseOfItsExamples) {
  const std::string path = VocabularyPath(GgufName(GetParam()));
  const auto tokenizer = Make(ReadSpec(GgufName(GetParam())));
  ASSERT_NE(tokenizer, nullptr);
  const std::vector<std::string> texts =
      absl::StrSplit(ReadText(path + ".inp"), "\n__ggml_vocab_test__\n");
  const std::vector<std::string> lines = absl::StrSplit(ReadText(path + ".out"), '\n');
  ASSERT_GE(texts.size(), 40u);
  ASSERT_EQ(lines.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    std::istringstream numbers(lines[i]);
    const Ids expected((std::istream_iterator<int32_t>(numbers)), std::istream_iterator<int32_t>());
    EXPECT_EQ(Encode(*tokenizer, texts[i], false), expected) << i << ": " << texts[i];
  }
}

INSTANTIATE_TEST_SUITE_P(All, LlamaCppTest,
                         testing::Values("gpt-2", "llama-bpe", "qwen2", "llama-spm"));

// The same vocabulary by way of a tokenizer.json.
Json JsonOf(const TokenizerSpec& spec, const Json& normalizer, const Json& pre_tokenizer) {
  Json vocab = Json::object();
  Json added = Json::array();
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const bool special = spec.types[i] == Type::kControl || spec.types[i] == Type::kUnknown;
    if (spec.types[i] == Type::kUnused) continue;
    if (special) added.push_back({{"id", i}, {"content", spec.tokens[i]}, {"special", true}});
    vocab[spec.tokens[i]] = i;
  }
  return {{"added_tokens", added},
          {"normalizer", normalizer},
          {"pre_tokenizer", pre_tokenizer},
          {"model",
           {{"type", "BPE"},
            {"vocab", vocab},
            {"merges", spec.merges},
            {"ignore_merges", spec.ignore_merges}}}};
}

std::unique_ptr<Tokenizer> MakeFromJson(const Json& json, size_t vocab_size) {
  const auto document = JsonDocument::Parse("tokenizer.json", json.dump());
  EXPECT_TRUE(IsOk(document));
  if (!document.ok()) return nullptr;
  auto spec = ParseTokenizerJson(**document, static_cast<int64_t>(vocab_size));
  EXPECT_TRUE(IsOk(spec));
  return spec.ok() ? Make(*std::move(spec)) : nullptr;
}

Json SplitStep(const std::string& regex) {
  return {{"type", "Sequence"},
          {"pretokenizers",
           {{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}},
            {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
}

TEST(TokenizerJson, GivesTheIdsOfByteLevelVocabularies) {
  const std::string head = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})";
  const std::string tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const std::tuple<std::string, Json, Json> kinds[] = {
      {"gpt-2", nullptr, {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"llama-bpe", nullptr, SplitStep(head + "{1,3}" + tail)},
      {"qwen2", {{"type", "NFC"}}, SplitStep(head + tail)},
  };
  for (const auto& [name, normalizer, steps] : kinds) {
    const TokenizerSpec spec = ReadSpec(GgufName(name));
    const auto tokenizer = MakeFromJson(JsonOf(spec, normalizer, steps), spec.tokens.size());
    ASSERT_NE(tokenizer, nullptr) << name;
    EXPECT_EQ(tokenizer->vocab_size(), static_cast<int64_t>(spec.tokens.size()));
    ExpectGolden(*tokenizer, name);
  }
}

// Every way to make a token of two, best score first, as converters of sentencepiece do it.
std::vector<std::string> MergesOf(const TokenizerSpec& spec) {
  absl::flat_hash_map<std::string, int32_t> ids;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    ids.emplace(spec.tokens[i], static_cast<int32_t>(i));
  }
  std::vector<std::tuple<float, int32_t, int32_t>> merges;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const std::string& token = spec.tokens[i];
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ids.find(token.substr(0, cut));
      const auto right = ids.find(token.substr(cut));
      if (left == ids.end() || right == ids.end()) continue;
      merges.emplace_back(-spec.scores[i], left->second, right->second);
    }
  }
  std::sort(merges.begin(), merges.end());
  std::vector<std::string> named;
  for (const auto& [score, left, right] : merges) {
    named.push_back(spec.tokens[left] + " " + spec.tokens[right]);
  }
  return named;
}

TEST(TokenizerJson, GivesTheIdsOfSentencepiece) {
  TokenizerSpec spec = ReadSpec(GgufName("llama-spm"));
  spec.merges = MergesOf(spec);
  const std::string space = "\xE2\x96\x81";
  const Json normalizer = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Prepend"}, {"prepend", space}},
        {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", space}}}}};
  Json json = JsonOf(spec, normalizer, nullptr);
  json["model"]["byte_fallback"] = true;
  json["model"]["unk_token"] = "<unk>";
  const auto tokenizer = MakeFromJson(json, spec.tokens.size());
  ASSERT_NE(tokenizer, nullptr);
  ExpectGolden(*tokenizer, "llama-spm", "prepended");
}

TEST(PreTokenizer, CutsWhereTekkensRegularExpressionDoes) {
  const auto tekken = PreTokenizer::Make("tekken");
  ASSERT_TRUE(IsOk(tekken));
  const Json golden = ReadGolden("tokenizers/tekken_words.json");
  ASSERT_EQ(golden["cases"].size(), Strings().size());
  for (size_t i = 0; i < Strings().size(); ++i) {
    const std::string text = Strings()[i];
    std::vector<std::string_view> words;
    ASSERT_TRUE((*tekken)->Split(text, &words).ok());
    Ids lengths;
    for (const std::string_view word : words) lengths.push_back(static_cast<int32_t>(word.size()));
    EXPECT_EQ(Folded(lengths), golden["cases"][i]["plain"]) << Strings()[i];
  }
}

}  // namespace
}  // namespace penstock
