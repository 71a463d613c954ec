// Fuzz target: any bytes as a GGUF file, and all that may be asked of it. What parses must be
// readable to its last byte; a sanitizer watches. Inputs begin as mutations of a small model.
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/io/gguf.h"
#include "core/tensor/dequantize.h"
#include "tests/fuzz/check_message.h"
#include "tests/fuzz/gguf_mutator.h"
#include "tests/fuzz/gguf_seeds.h"
#include "tests/fuzz/mutator.h"

namespace penstock {
namespace {

// What the tokenizers of such a file are asked.
void ReadTokenizer(const TokenizerSpec& spec) {
  PENSTOCK_CHECK_EQ(spec.tokens.size(), spec.types.size());
  for (const int32_t id : spec.end_ids) {
    PENSTOCK_CHECK_GE(id, 0);
    PENSTOCK_CHECK_LT(static_cast<size_t>(id), spec.tokens.size());
  }
  const auto tokenizer = MakeTokenizer(spec);
  if (!tokenizer.ok()) return;
  const auto ids = (*tokenizer)->Encode("a ab<|im_end|>\xc3\xa9", true);
  if (!ids.ok()) return;
  for (const int32_t id : *ids) PENSTOCK_CHECK_LT(static_cast<size_t>(id), spec.tokens.size());
}

// Each value as every type there is.
void ReadValues(const GgufFile& file) {
  for (const std::string_view key :
       {"u8", "i8s", "u16s", "i16", "u32", "i32", "f32", "f32s", "bool", "bools", "u64", "u64s",
        "i64s", "string", "strings", "none"}) {
    const bool found = file.GetInt(key).ok() + file.GetFloat(key).ok() + file.GetBool(key).ok() +
                           file.GetString(key).ok() + file.GetStrings(key).ok() +
                           file.GetInts(key).ok() >
                       0;
    PENSTOCK_CHECK(!found || file.HasKey(key));
  }
}

void ReadAll(const std::shared_ptr<const GgufFile>& file) {
  if (const auto config = ReadGgufConfig(*file); config.ok()) {
    PENSTOCK_CHECK(Validate(*config).ok());
    const auto source = MakeGgufWeightSource(file);
    const int64_t hidden = config->hidden_size;
    const auto tensors = source->Tensors();
    PENSTOCK_CHECK_LE(tensors.size(), static_cast<size_t>(file->num_tensors()));
    for (const auto& tensor : tensors) PENSTOCK_CHECK(source->Contains(tensor.name));
    PENSTOCK_CHECK_EQ(source->rope_rows() == WeightSource::RopeRows::kInterleaved,
                      config->architecture == "llama");
    for (const auto& [name, rows] : std::initializer_list<std::pair<std::string_view, int64_t>>{
             {"embed_tokens.weight", config->vocab_size},
             {"lm_head.weight", config->vocab_size},
             {"layers.0.self_attn.q_proj.weight", config->q_size()},
             {"layers.1.mlp.gate_proj.weight", config->intermediate_size},
             {"layers.0.mlp.nothing", hidden}}) {
      const auto tensor = source->Get(name, Shape({rows, hidden}));
      PENSTOCK_CHECK(!tensor.ok() || source->Contains(name));
      if (tensor.ok()) source->Forget(*tensor);
    }
  }
  ReadValues(*file);
  if (const auto spec = ReadGgufTokenizer(*file); spec.ok()) ReadTokenizer(*spec);
  for (const std::string_view name : file->TensorNames()) {
    const Tensor tensor = *file->GetTensor(name);
    PENSTOCK_CHECK_LE(tensor.bytes(), file->file()->size());
    std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
    Dequantize(tensor.type(), tensor.raw(), tensor.num_elements(), values.data());
  }
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file =
      penstock::GgufFile::Parse(penstock::MmapFile::FromBytes("fuzz.gguf", {data, size}));
  if (file.ok()) {
    penstock::ReadAll(*file);
  } else {
    penstock::fuzz::CheckMessage(file.status(), "fuzz.gguf");
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using penstock::fuzz::Format;
  static const auto* const format = new Format{
      "GGUF", penstock::fuzz::GgufSeeds(), penstock::fuzz::GgufWords(), penstock::fuzz::MutateGguf};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
