// Fuzz target: any bytes as a safetensors file. What parses accounts for every byte of the file
// once, and all of its tensors can be read; a sanitizer watches.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/check.h"
#include "core/io/safetensors.h"
#include "core/tensor/dequantize.h"
#include "tests/fuzz/check_message.h"
#include "tests/fuzz/mutator.h"
#include "tests/support/safetensors_builder.h"

namespace penstock {
namespace {

constexpr size_t kLengthBytes = 8;

fuzz::Words Seeds() {
  testing::SafetensorsBuilder builder;
  builder.Entry("__metadata__", R"({"format":"pt"})").F32("model.norm.weight", {4}, 1.0f);
  builder.Tensor("a", "F16", {2, 3}, std::vector<uint8_t>(12, 0x3c));
  builder.Tensor("b", "BF16", {1}, std::vector<uint8_t>(2, 0x3f));
  builder.Tensor("c", "I64", {}, std::vector<uint8_t>(8, 1));
  // The second tensor begins off the alignment of its elements.
  testing::SafetensorsBuilder odd;
  odd.Tensor("a", "U8", {1}, {1}).F32("b", {1, 2, 1, 1}, 0.0f);
  fuzz::Words seeds;
  for (const std::vector<uint8_t>& bytes :
       {builder.Build(), odd.Build(), testing::SafetensorsBuilder().Build()}) {
    seeds.emplace_back(bytes.begin(), bytes.end());
  }
  return seeds;
}

// The header as JSON, with its length before it made right again; or the whole as bytes.
void Change(std::string& file, fuzz::Random& random, const fuzz::Words& words) {
  uint64_t length = 0;
  if (file.size() >= kLengthBytes) std::memcpy(&length, file.data(), kLengthBytes);
  if (length == 0 || length > file.size() - kLengthBytes || random.OneIn(8)) {
    return fuzz::MutateBinary(file, random, words);
  }
  std::string header = file.substr(kLengthBytes, length);
  fuzz::MutateJson(header, random, words);
  file.replace(kLengthBytes, length, header);
  length = header.size();
  if (!random.OneIn(16)) std::memcpy(file.data(), &length, kLengthBytes);
}

void ReadAll(const SafetensorsFile& file, size_t size, uint64_t header_bytes) {
  int64_t bytes = static_cast<int64_t>(kLengthBytes + header_bytes);
  bool all = true;
  PENSTOCK_CHECK_EQ(file.TensorNames().size(), static_cast<size_t>(file.num_tensors()));
  for (const std::string_view name : file.TensorNames()) {
    PENSTOCK_CHECK(file.HasTensor(name));
    const auto tensor = file.GetTensor(name);
    all = all && tensor.ok();
    if (!tensor.ok()) continue;
    bytes += tensor->bytes();
    std::vector<float> values(static_cast<size_t>(tensor->num_elements()));
    Dequantize(tensor->type(), tensor->raw(), tensor->num_elements(), values.data());
    file.Forget(*tensor);
  }
  PENSTOCK_CHECK_LE(bytes, static_cast<int64_t>(size));
  if (all) PENSTOCK_CHECK_EQ(bytes, static_cast<int64_t>(size));
  constexpr std::string_view kOther = "no such tensor";  // almost always
  PENSTOCK_CHECK(file.HasTensor(kOther) || !file.GetTensor(kOther).ok());
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = penstock::SafetensorsFile::Parse(
      penstock::MmapFile::FromBytes("fuzz.safetensors", {data, size}));
  if (file.ok()) {
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, data, sizeof(header_bytes));
    penstock::ReadAll(**file, size, header_bytes);
  } else {
    penstock::fuzz::CheckMessage(file.status(), "fuzz.safetensors");
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using penstock::fuzz::Format;
  static const auto* const format =
      new Format{"",
                 penstock::Seeds(),
                 {"dtype",   "shape",   "data_offsets", "__metadata__", "F32",           "F16",
                  "BF16",    "F64",     "I64",          "U64",          "I32",           "U32",
                  "I16",     "U16",     "I8",           "U8",           "BOOL",          "F8_E4M3",
                  "F8_E5M2", "F8_E8M0", "C64",          "F4",           "no such tensor"},
                 penstock::Change};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
