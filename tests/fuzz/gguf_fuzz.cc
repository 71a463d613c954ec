// Fuzz target: any bytes as a GGUF file, and all that may be asked of it. What parses must be
// readable to its last byte; a sanitizer watches. Inputs begin as mutations of a small model.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/base/check.h"
#include "core/io/gguf.h"
#include "core/tensor/dequantize.h"
#include "tests/support/gguf_builder.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace penstock {
namespace {

// Folds what it is given into one number, so that no read is optimised away.
uint64_t Digest(uint64_t digest, const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < size; ++i) digest = digest * 31 + bytes[i];
  return digest;
}

uint64_t ReadAll(const std::shared_ptr<const GgufFile>& file) {
  uint64_t digest = 0;
  if (const auto config = ReadGgufConfig(*file); config.ok()) {
    PENSTOCK_CHECK(Validate(*config).ok());
    const auto source = MakeGgufWeightSource(file);
    const auto table =
        source->Get("embed_tokens.weight", {config->vocab_size, config->hidden_size});
    if (table.ok()) source->Forget(*table);
  }
  if (const auto spec = ReadGgufTokenizer(*file); spec.ok()) {
    PENSTOCK_CHECK_EQ(spec->tokens.size(), spec->types.size());
    for (const auto& token : spec->tokens) digest = Digest(digest, token.data(), token.size());
    for (const int32_t id : spec->end_ids) {
      PENSTOCK_CHECK_GE(id, 0);
      PENSTOCK_CHECK_LT(static_cast<size_t>(id), spec->tokens.size());
    }
  }
  for (const std::string_view name : file->TensorNames()) {
    const Tensor tensor = *file->GetTensor(name);
    PENSTOCK_CHECK_LE(tensor.bytes(), file->file()->size());
    std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
    Dequantize(tensor.type(), tensor.raw(), tensor.num_elements(), values.data());
    digest = Digest(digest, values.data(), values.size() * sizeof(float));
  }
  return digest;
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  [[maybe_unused]] static volatile uint64_t sink;
  const auto file =
      penstock::GgufFile::Parse(penstock::MmapFile::FromBytes("fuzz.gguf", {data, size}));
  if (file.ok()) {
    sink = penstock::ReadAll(*file);
  } else {
    for (const char c : file.status().message()) PENSTOCK_CHECK(c >= 0x20 && c < 0x7f);
  }
  return 0;
}

// Random bytes are almost never a GGUF file: what is not yet one begins as the small model.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned) {
  static const std::vector<uint8_t> seed = penstock::TinyLlamaGguf().Build();
  if (size < 24 || std::memcmp(data, "GGUF", 4) != 0) {
    size = std::min(seed.size(), max_size);
    std::memcpy(data, seed.data(), size);
  }
  return LLVMFuzzerMutate(data, size, max_size);
}
