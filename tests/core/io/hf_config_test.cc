// config.json of the families, in the forms of transformers 4 and 5, and what is refused.
#include "core/io/hf_config.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "tests/support/safetensors_builder.h"
#include "tests/support/status_matchers.h"

namespace penstock::testing {
namespace {

using absl::StatusCode;

// The members of a config.json, to be changed one by one.
class Config {
 public:
  // What all families write, with their own defaults left out.
  Config(std::string_view model_type, std::string_view architecture) {
    Set("model_type", absl::StrCat("\"", Abs(model_type), "\""));
    Set("architectures", absl::StrCat("[\"", Abs(architecture), "\"]"));
    Set("hidden_size", "64").Set("intermediate_size", "96").Set("num_hidden_layers", "2");
    Set("num_attention_heads", "4").Set("num_key_value_heads", "2").Set("vocab_size", "100");
    Set("max_position_embeddings", "256").Set("rms_norm_eps", "1e-06");
    Set("torch_dtype", "\"bfloat16\"").Set("transformers_version", "\"4.40.0\"");
  }
  Config& Set(const std::string& key, std::string_view json) {
    members_[key] = std::string(json);
    return *this;
  }
  Config& Remove(const std::string& key) {
    members_.erase(key);
    return *this;
  }
  absl::StatusOr<ModelConfig> Parse() const {
    std::string text;
    for (const auto& [key, json] : members_) {
      absl::StrAppend(&text, text.empty() ? "{" : ",\n", "\"", key, "\": ", json);
    }
    return ParseHfConfig("config.json", text + "}");
  }

 private:
  std::map<std::string, std::string> members_;
};

Config Llama() { return {"llama", "LlamaForCausalLM"}; }
Config Mistral() { return {"mistral", "MistralForCausalLM"}; }
Config Qwen2() { return {"qwen2", "Qwen2ForCausalLM"}; }
Config Qwen3() { return {"qwen3", "Qwen3ForCausalLM"}; }

::testing::AssertionResult Invalid(const Config& config,
                                   std::initializer_list<std::string_view> words) {
  if (auto named = Fails(config.Parse(), StatusCode::kInvalidArgument, {"config.json: "}); !named) {
    return named;
  }
  return Fails(config.Parse(), StatusCode::kInvalidArgument, words);
}
::testing::AssertionResult Unsupported(const Config& config,
                                       std::initializer_list<std::string_view> words) {
  return Fails(config.Parse(), StatusCode::kUnimplemented, words);
}

TEST(HfConfigTest, Llama) {
  const auto config = Llama().Set("rope_theta", "500000.0").Parse();
  ASSERT_TRUE(IsOk(config));
  EXPECT_EQ(config->architecture, "llama");
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->intermediate_size, 96);
  EXPECT_EQ(config->num_layers, 2);
  EXPECT_EQ(config->num_heads, 4);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->vocab_size, 100);
  EXPECT_EQ(config->context_length, 256);
  EXPECT_EQ(config->rms_norm_eps, 1e-6f);
  EXPECT_EQ(config->rope_theta, 500000.0f);
  EXPECT_EQ(config->rope_scaling.type, RopeScaling::Type::kNone);
  EXPECT_EQ(config->sliding_window, 0);
  EXPECT_FALSE(config->qkv_bias);
  EXPECT_FALSE(config->qk_norm);
  EXPECT_FALSE(config->tied_embeddings);
}

TEST(HfConfigTest, WhatIsNotWrittenHasTheDefaultOfTheClass) {
  EXPECT_EQ(Llama().Remove("num_key_value_heads").Parse()->num_kv_heads, 4);
  EXPECT_EQ(Llama().Set("num_key_value_heads", "null").Parse()->num_kv_heads, 4);
  EXPECT_EQ(Llama().Parse()->rope_theta, 10000.0f);
  EXPECT_TRUE(Llama().Set("tie_word_embeddings", "true").Parse()->tied_embeddings);
  EXPECT_EQ(Llama().Set("head_dim", "32").Parse()->head_dim, 32);
  EXPECT_EQ(Qwen3().Parse()->head_dim, 128);
  EXPECT_TRUE(IsOk(Llama().Remove("architectures").Parse()));
  EXPECT_TRUE(IsOk(Llama().Set("architectures", "null").Parse()));
  EXPECT_TRUE(IsOk(Llama().Remove("model_type").Parse()));
  EXPECT_TRUE(Invalid(Mistral().Remove("num_key_value_heads"), {"no 'num_key_value_heads'"}));
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
                          "num_attention_heads", "max_position_embeddings", "rms_norm_eps"}) {
    EXPECT_TRUE(Invalid(Llama().Remove(key), {"there is no", key}));
  }
}

TEST(HfConfigTest, Families) {
  EXPECT_EQ(Mistral().Parse()->architecture, "mistral");
  EXPECT_FALSE(Mistral().Parse()->qkv_bias);
  EXPECT_EQ(Qwen2().Parse()->architecture, "qwen2");
  EXPECT_TRUE(Qwen2().Parse()->qkv_bias);
  EXPECT_FALSE(Qwen2().Parse()->qk_norm);
  EXPECT_EQ(Qwen3().Parse()->architecture, "qwen3");
  EXPECT_TRUE(Qwen3().Parse()->qk_norm);
  EXPECT_FALSE(Qwen3().Parse()->qkv_bias);
}

TEST(HfConfigTest, OtherArchitecturesAreNamed) {
  EXPECT_TRUE(Unsupported({"gemma3", "Gemma3ForCausalLM"},
                          {"'Gemma3ForCausalLM'", "LlamaForCausalLM, MistralForCausalLM"}));
  EXPECT_TRUE(Unsupported(Config("gemma3", "").Remove("architectures"), {"'gemma3'"}));
  EXPECT_TRUE(Unsupported({"llama", "LlamaForSequenceClassification"},
                          {"'LlamaForSequenceClassification'"}));
  EXPECT_TRUE(Unsupported(Config("", "").Remove("architectures").Remove("model_type"), {"''"}));
  EXPECT_TRUE(Unsupported({"a", "\\u001b[31m"}, {"'\\x1b[31m'"}));
  EXPECT_TRUE(Invalid({"qwen2", "LlamaForCausalLM"}, {"model_type is 'qwen2'; 'llama'"}));
  EXPECT_TRUE(Invalid(Llama().Set("architectures", "[]"), {"architectures is an array of 0"}));
  EXPECT_TRUE(Invalid(Llama().Set("architectures", "[1]"), {"architectures[0] is 1; a string"}));
}

TEST(HfConfigTest, RopeScalingOfTransformers4) {
  const auto llama3 = Llama()
                          .Set("rope_theta", "500000.0")
                          .Set("rope_scaling", R"({"factor": 8.0, "high_freq_factor": 4.5,
                               "low_freq_factor": 1.5, "original_max_position_embeddings": 8192,
                               "rope_type": "llama3"})")
                          .Parse();
  ASSERT_TRUE(IsOk(llama3));
  EXPECT_EQ(llama3->rope_scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ(llama3->rope_scaling.factor, 8.0f);
  EXPECT_EQ(llama3->rope_scaling.low_freq_factor, 1.5f);
  EXPECT_EQ(llama3->rope_scaling.high_freq_factor, 4.5f);
  EXPECT_EQ(llama3->rope_scaling.original_context, 8192);
  EXPECT_EQ(llama3->rope_theta, 500000.0f);

  const auto linear = Llama().Set("rope_scaling", R"({"type": "linear", "factor": 4})").Parse();
  ASSERT_TRUE(IsOk(linear));
  EXPECT_EQ(linear->rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ(linear->rope_scaling.factor, 4.0f);

  EXPECT_EQ(Llama().Set("rope_scaling", "null").Parse()->rope_scaling.type,
            RopeScaling::Type::kNone);
}

TEST(HfConfigTest, RopeParametersOfTransformers5) {
  const auto plain =
      Qwen3()
          .Set("rope_parameters", R"({"rope_theta": 1000000.0, "rope_type": "default"})")
          .Parse();
  ASSERT_TRUE(IsOk(plain));
  EXPECT_EQ(plain->rope_theta, 1000000.0f);
  EXPECT_EQ(plain->rope_scaling.type, RopeScaling::Type::kNone);
  const auto llama3 = Llama()
                          .Set("rope_parameters", R"({"factor": 32.0, "high_freq_factor": 4.0,
                               "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                               "rope_theta": 500000.0, "rope_type": "llama3"})")
                          .Parse();
  ASSERT_TRUE(IsOk(llama3));
  EXPECT_EQ(llama3->rope_theta, 500000.0f);
  EXPECT_EQ(llama3->rope_scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ(llama3->rope_scaling.factor, 32.0f);
}

TEST(HfConfigTest, RopeThatIsNotComputedIsNamed) {
  for (const char* type : {"yarn", "dynamic", "longrope", "mrope", "x\\u0007"}) {
    EXPECT_TRUE(Unsupported(
        Llama().Set("rope_scaling", absl::StrCat(R"({"factor": 2.0, "rope_type": ")", type, "\"}")),
        {"config.json: rope_scaling is of the type", "default, linear and llama3"}))
        << type;
  }
  EXPECT_TRUE(Unsupported(Llama().Set("rope_parameters", R"({"partial_rotary_factor": 0.5})"),
                          {"rope_parameters.partial_rotary_factor is 0.5"}));
  EXPECT_TRUE(Unsupported(Llama().Set("partial_rotary_factor", "0.25"), {"is 0.25"}));
  EXPECT_TRUE(
      Unsupported(Llama().Set("rope_parameters", R"({"full_attention": {"rope_type": "default"}})"),
                  {"rope_parameters has parameters for each kind of layer"}));
}

TEST(HfConfigTest, RopeScalingThatIsWrong) {
  EXPECT_TRUE(Invalid(Llama().Set("rope_scaling", "3"), {"rope_scaling is 3; an object"}));
  EXPECT_TRUE(Invalid(Llama().Set("rope_scaling", R"({"type": "linear"})"),
                      {"there is no 'factor' in rope_scaling"}));
  EXPECT_TRUE(Invalid(Llama().Set("rope_scaling", R"({"type": "linear", "factor": "x"})"),
                      {"rope_scaling.factor is 'x'; a number"}));
  for (const char* factor : {"0", "-1", "1e300"}) {
    EXPECT_TRUE(Invalid(
        Llama().Set("rope_scaling", absl::StrCat(R"({"type": "linear", "factor": )", factor, "}")),
        {"rope_scaling.factor", "above 0"}));
    EXPECT_TRUE(Invalid(Llama().Set("rope_theta", factor), {"rope_theta", "above 0"}));
  }
  EXPECT_TRUE(
      Invalid(Llama().Set("rope_scaling", R"({"type": "llama3", "factor": 8, "low_freq_factor": 4,
                  "high_freq_factor": 1, "original_max_position_embeddings": 8192})"),
              {"high_freq_factor"}));
  EXPECT_TRUE(
      Invalid(Llama().Set("rope_scaling", R"({"type": "llama3", "factor": 8, "low_freq_factor": 1,
                  "high_freq_factor": 4, "original_max_position_embeddings": 0})"),
              {"original_context"}));
}

TEST(HfConfigTest, SlidingWindows) {
  EXPECT_EQ(Mistral().Parse()->sliding_window, 4096);
  EXPECT_EQ(Mistral().Set("sliding_window", "100").Parse()->sliding_window, 100);
  EXPECT_EQ(Mistral().Set("sliding_window", "null").Parse()->sliding_window, 0);
  EXPECT_EQ(Llama().Set("sliding_window", "100").Parse()->sliding_window, 0);  // not read by Llama
  const auto qwen = [] { return Qwen2().Set("sliding_window", "32"); };
  EXPECT_EQ(qwen().Parse()->sliding_window, 0);
  const auto on = [&] { return qwen().Set("use_sliding_window", "true"); };
  EXPECT_EQ(on().Parse()->sliding_window, 0);  // from layer 28 on
  EXPECT_EQ(on().Set("max_window_layers", "0").Parse()->sliding_window, 32);
  EXPECT_EQ(on().Set("max_window_layers", "2").Parse()->sliding_window, 0);
  EXPECT_TRUE(Unsupported(on().Set("max_window_layers", "1"), {"only 1 of 2 layers"}));
  const auto types = [&](std::string_view list) { return on().Set("layer_types", list); };
  EXPECT_EQ(types(R"(["sliding_attention", "sliding_attention"])").Parse()->sliding_window, 32);
  EXPECT_EQ(types(R"(["full_attention", "full_attention"])").Parse()->sliding_window, 0);
  EXPECT_TRUE(Unsupported(types(R"(["full_attention", "sliding_attention"])"),
                          {"config.json: only 1 of 2 layers have a sliding window"}));
  EXPECT_TRUE(Unsupported(types(R"(["full_attention", "chunked_attention"])"),
                          {"layer_types[1] is 'chunked_attention'"}));
  EXPECT_TRUE(
      Invalid(types(R"(["full_attention"])"), {"layer_types is an array of 1", "2 layers"}));
  EXPECT_TRUE(Invalid(Mistral().Set("sliding_window", "0"), {"sliding_window is 0; null or"}));
  EXPECT_TRUE(Invalid(Mistral().Set("sliding_window", "-1"), {"sliding_window is -1"}));
}

TEST(HfConfigTest, WhatTheForwardPassWouldIgnoreIsUnsupported) {
  EXPECT_TRUE(Unsupported(Llama().Set("attention_bias", "true"), {"attention_bias", "o_proj"}));
  EXPECT_TRUE(Unsupported(Qwen3().Set("attention_bias", "true"), {"attention_bias", "o_proj"}));
  EXPECT_TRUE(IsOk(Llama().Set("attention_bias", "false").Parse()));
  EXPECT_TRUE(Unsupported(Llama().Set("mlp_bias", "true"), {"mlp_bias"}));
  EXPECT_TRUE(Unsupported(Llama().Set("hidden_act", "\"gelu\""), {"hidden_act is 'gelu'; silu"}));
  EXPECT_TRUE(
      Unsupported(Llama().Set("quantization_config", R"({"quant_method": "gptq", "bits": 4})"),
                  {"config.json: quantization_config", "'gptq'", "GGUF"}));
  EXPECT_TRUE(Unsupported(Llama().Set("compression_config", "{}"), {"compression_config"}));
}

TEST(HfConfigTest, SizesThatAreZeroHugeOrNoNumbers) {
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim"}) {
    for (const char* size :
         {"0", "-1", "2147483648", "4294967296", "4294967297", "9223372036854775807",
          "9223372036854775808", "18446744073709551613", "\"64\"", "64.0", "[]", "true", "1e400"}) {
      EXPECT_FALSE(Llama().Set(key, size).Parse().ok()) << key << " " << size;
    }
  }
  EXPECT_TRUE(Invalid(Llama().Set("num_attention_heads", "5"),
                      {"hidden_size (64)", "num_attention_heads (5)", "head_dim"}));
  EXPECT_TRUE(Invalid(Llama().Set("rms_norm_eps", "0"), {"rms_norm_eps is 0"}));
  EXPECT_TRUE(Invalid(Llama().Set("tie_word_embeddings", "1"), {"tie_word_embeddings is 1; true"}));
}

TEST(HfConfigTest, AFolderGivesTheName) {
  const TempFolder folder;
  folder.Write("config.json", R"({"model_type": "llama", "hidden_size": 64, "vocab_size": 8,
      "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
      "max_position_embeddings": 128, "rms_norm_eps": 1e-5})");
  const auto config = ReadHfConfig(folder.path() + "/.");
  ASSERT_TRUE(IsOk(config));
  EXPECT_EQ(config->name, std::filesystem::path(folder.path()).filename());
  EXPECT_TRUE(
      Fails(ReadHfConfig(folder.Path("none")), StatusCode::kNotFound, {"none/config.json"}));
  folder.Write("config.json", std::string(5 << 20, ' '));
  EXPECT_TRUE(
      Fails(ReadHfConfig(folder.path()), StatusCode::kInvalidArgument, {"config.json: has"}));
}

}  // namespace
}  // namespace penstock::testing
