// Fuzz target: any text as the model.safetensors.index.json beside some small shards. What opens
// can be read, and nothing outside the folder was looked at.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/check.h"
#include "core/io/safetensors_weights.h"
#include "tests/fuzz/check_message.h"
#include "tests/fuzz/mutator.h"
#include "tests/support/safetensors_builder.h"

namespace penstock {
namespace {

constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr std::string_view kSeed =
    R"({"metadata":{"total_size":32},"weight_map":{"model.norm.weight":"model-00001-of-00002.safetensors",)"
    R"("model.embed_tokens.weight":"model-00002-of-00002.safetensors"}})";
constexpr std::string_view kOddSeed =
    R"({"weight_map":{"model.layers.0.self_attn.rotary_emb.inv_freq":"odd.safetensors",)"
    R"("model.norm.weight":"odd.safetensors","model.layers.0.input_layernorm.weight":"odd.safetensors"}})";

// The shards, and beside the folder one that must never be reached.
class Folder {
 public:
  Folder() {
    using Builder = testing::SafetensorsBuilder;
    std::filesystem::create_directory(path());
    folder_.Write("model/model-00001-of-00002.safetensors",
                  Builder().F32("model.norm.weight", {4}, 0.0f).Build());
    folder_.Write("model/model-00002-of-00002.safetensors",
                  Builder().F32("model.embed_tokens.weight", {1, 4}, 0.0f).Build());
    folder_.Write("model/odd.safetensors",
                  Builder()
                      .F32("model.layers.0.self_attn.rotary_emb.inv_freq", {2}, 0.0f)
                      .F32("model.norm.weight", {4}, 1.0f)
                      .Tensor("model.layers.0.input_layernorm.weight", "I8", {4}, {1, 2, 3, 4})
                      .Build());
    folder_.Write("model/foreign.safetensors", Builder().F32("wte.weight", {1}, 0.0f).Build());
    folder_.Write("model/broken.safetensors", "not one");
    folder_.Write("outside.safetensors", Builder().F32("lm_head.weight", {1, 4}, 0.0f).Build());
  }
  std::string path() const { return folder_.Path("model"); }
  // An empty text: no index at all.
  void WriteIndex(std::string_view text) const {
    if (text.empty()) {
      std::filesystem::remove(path() + "/" + std::string(kIndex));
      return;
    }
    folder_.Write("model/" + std::string(kIndex), text);
  }

 private:
  testing::TempFolder folder_;
};

ModelConfig Config() {
  ModelConfig config;
  config.architecture = "llama";
  config.num_layers = 1;
  return config;
}

void OpenAndRead(const Folder& folder) {
  static const auto* const config = new ModelConfig(Config());
  const auto source = OpenSafetensors(folder.path(), *config);
  if (!source.ok()) return fuzz::CheckMessage(source.status(), folder.path());
  PENSTOCK_CHECK(!(*source)->Contains("lm_head.weight"));
  PENSTOCK_CHECK(!(*source)->Get("lm_head.weight", Shape({1, 4})).ok());
  const auto norm = (*source)->Get("norm.weight", Shape({4}));
  const auto table = (*source)->Get("embed_tokens.weight", Shape({1, 4}));
  for (const auto& tensor : (*source)->Tensors()) PENSTOCK_CHECK((*source)->Contains(tensor.name));
  PENSTOCK_CHECK((*source)->rope_rows() == WeightSource::RopeRows::kHalves);
  PENSTOCK_CHECK(!(*source)->Get("embed_tokens.weight", Shape({4, 1})).ok());
  if (norm.ok()) (*source)->Forget(*norm);
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const penstock::Folder folder;  // removed at the end of the program
  folder.WriteIndex({reinterpret_cast<const char*>(data), size});
  penstock::OpenAndRead(folder);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using penstock::fuzz::Format;
  static const auto* const format = new Format{
      "{",
      {std::string(penstock::kSeed), std::string(penstock::kOddSeed)},
      {"weight_map", "metadata", "model.norm.weight", "model.embed_tokens.weight",
       "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
       "model-00003-of-00002.safetensors", "odd.safetensors", "foreign.safetensors",
       "broken.safetensors", "wte.weight", "model.layers.0.self_attn.rotary_emb.inv_freq",
       "model.layers.0.input_layernorm.weight", "../outside.safetensors", "lm_head.weight",
       "/etc/passwd", ".safetensors", "model-00001-of-00002.safetensors\\u0000.safetensors"},
      penstock::fuzz::MutateJson};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
