// Fuzz target: any text as the config.json of a Hugging Face folder. What
// is read is a configuration that the forward pass may rely on.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/check.h"
#include "core/io/hf_config.h"
#include "tests/fuzz/check_message.h"
#include "tests/fuzz/mutator.h"

namespace penstock {
namespace {

constexpr const char* kSeeds[] = {
    R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,)"
    R"("intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,)"
    R"("head_dim":16,"vocab_size":100,"max_position_embeddings":2048,"rms_norm_eps":1e-5,)"
    R"("rope_theta":500000.0,"rope_scaling":{"factor":8.0,"low_freq_factor":1.0,)"
    R"("high_freq_factor":4.0,"original_max_position_embeddings":8192,"rope_type":"llama3"},)"
    R"("tie_word_embeddings":false,"hidden_act":"silu","attention_bias":false,"mlp_bias":false})",
    R"({"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2","hidden_size":64,)"
    R"("intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":4,)"
    R"("vocab_size":100,"max_position_embeddings":128,"rms_norm_eps":1e-6,"sliding_window":64,)"
    R"("use_sliding_window":true,"layer_types":["sliding_attention","sliding_attention"],)"
    R"("rope_parameters":{"rope_theta":1e6,"rope_type":"linear","factor":2.0}})",
    R"({"model_type":"mistral","hidden_size":64,"intermediate_size":96,"num_hidden_layers":1,)"
    R"("num_attention_heads":1,"num_key_value_heads":1,"vocab_size":100,"sliding_window":null,)"
    R"("max_position_embeddings":128,"rms_norm_eps":1e-6})"};

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = penstock::ParseHfConfig("config.json", text);
  if (config.ok()) {
    PENSTOCK_CHECK(penstock::Validate(*config).ok());
  } else {
    penstock::fuzz::CheckMessage(config.status(), "config.json");
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using penstock::fuzz::Format;
  static const auto* const format =
      new Format{"{",
                 {std::begin(penstock::kSeeds), std::end(penstock::kSeeds)},
                 {"llama",
                  "mistral",
                  "qwen2",
                  "qwen3",
                  "LlamaForCausalLM",
                  "MistralForCausalLM",
                  "Qwen2ForCausalLM",
                  "Qwen3ForCausalLM",
                  "silu",
                  "gelu",
                  "default",
                  "linear",
                  "llama3",
                  "yarn",
                  "type",
                  "rope_type",
                  "rope_theta",
                  "rope_scaling",
                  "rope_parameters",
                  "factor",
                  "partial_rotary_factor",
                  "sliding_window",
                  "use_sliding_window",
                  "max_window_layers",
                  "layer_types",
                  "full_attention",
                  "sliding_attention",
                  "head_dim",
                  "num_key_value_heads",
                  "tie_word_embeddings",
                  "attention_bias",
                  "mlp_bias",
                  "quantization_config",
                  "compression_config",
                  "quant_method",
                  "original_max_position_embeddings"},
                 penstock::fuzz::MutateJson};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
