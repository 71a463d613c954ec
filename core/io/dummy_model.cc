#include "core/io/dummy_model.h"

#include "core/base/check.h"
#include "core/base/quoted.h"
#include "core/tokenizer/byte_alphabet.h"

namespace penstock {
namespace {

struct DummyShape {
  std::string_view name;
  int64_t hidden_size;
  int64_t intermediate_size;
  int64_t num_layers;
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t vocab_size;
  int64_t context_length;
  float rope_theta;
  DataType type;
};

constexpr DummyShape kShapes[] = {
    {"llama-2-7b", 4096, 11008, 32, 32, 32, 32000, 4096, 10000.0f, DataType::kBF16},
    {"llama-2-7b-16k", 4096, 11008, 32, 32, 32, 32000, 16384, 10000.0f, DataType::kBF16},
    {"llama-3-8b", 4096, 14336, 32, 32, 8, 128256, 8192, 500000.0f, DataType::kBF16},
    {"llama-2-70b", 8192, 28672, 80, 64, 8, 32000, 4096, 10000.0f, DataType::kBF16},
    {"tiny", 64, 192, 4, 4, 2, 512, 512, 10000.0f, DataType::kF32},
};

constexpr int64_t kBytes = 256;

}  // namespace

absl::StatusOr<DummyModel> FindDummyModel(std::string_view name) {
  std::string known;
  for (const DummyShape& shape : kShapes) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", Abs(kDummyPrefix), Abs(shape.name));
    if (shape.name != name) continue;
    DummyModel model;
    ModelConfig& config = model.config;
    config.architecture = "llama";
    config.name = absl::StrCat("dummy-", Abs(shape.name));
    config.hidden_size = shape.hidden_size;
    config.intermediate_size = shape.intermediate_size;
    config.num_layers = shape.num_layers;
    config.num_heads = shape.num_heads;
    config.num_kv_heads = shape.num_kv_heads;
    config.head_dim = shape.hidden_size / shape.num_heads;
    config.vocab_size = shape.vocab_size;
    config.context_length = shape.context_length;
    config.rope_theta = shape.rope_theta;
    model.type = shape.type;
    PENSTOCK_CHECK(Validate(config).ok());
    return model;
  }
  return absl::NotFoundError(
      absl::StrCat("there is no dummy model ", Quoted(name), "; these are: ", known));
}

TokenizerSpec MakeDummyTokenizer(int64_t vocab_size) {
  PENSTOCK_CHECK_GE(vocab_size, kBytes);
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre_tokenizer = "gpt-2";
  for (int64_t id = 0; id < vocab_size; ++id) {
    const auto byte = static_cast<char>(id);
    spec.tokens.push_back(id < kBytes ? BytesToAlphabet(std::string_view(&byte, 1))
                                      : BytesToAlphabet(absl::StrCat(" t", id)));
  }
  spec.types.assign(spec.tokens.size(), TokenizerSpec::TokenType::kNormal);
  return spec;
}

}  // namespace penstock
