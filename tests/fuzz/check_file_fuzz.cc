// Fuzz target: any text as the check file beside a model. What is read has ids and hashes as told,
// and comes back the same when it is written.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/check.h"
#include "core/io/check_file.h"
#include "core/io/dummy_weights.h"
#include "core/tensor/allocator.h"
#include "tests/fuzz/check_message.h"
#include "tests/fuzz/mutator.h"
#include "tests/support/safetensors_builder.h"

namespace penstock {
namespace {

constexpr const char* kSeed =
    R"({"format":1,"precision":"f32","backend":"cpu","prompt_ids":[1,2],"ids":[3],)"
    R"("tensors":{"embed_tokens.weight":"0123456789abcdef","norm.weight":"ffffffffffffffff"}})";

// As the names of all tensors, precisions and backends of ours are.
bool IsPlain(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return c > 0x20 && c < 0x7f && c != '"' && c != '\\'; });
}

// The hashes of a small model, which are never those of the file.
bool IsOfTheModel(const ModelCheck& check) {
  static const auto* const config = [] {
    auto* small = new ModelConfig;
    small->architecture = "llama";
    small->hidden_size = small->intermediate_size = small->head_dim = 4;
    small->num_layers = small->num_heads = small->num_kv_heads = 1;
    small->vocab_size = small->context_length = 2;
    return small;
  }();
  static HostAllocator allocator;
  static const auto source = MakeDummyWeightSource(1, *config, DataType::kF32, allocator);
  const auto hashes = HashTensors(*source, *config);
  PENSTOCK_CHECK(hashes.ok());
  return *hashes == check.tensors;
}

void ReadAndWrite(const testing::TempFolder& folder, std::string_view text) {
  const std::string path = CheckFilePath(folder.path() + "/model/");
  folder.Write("model.check.json", text);
  const auto check = ReadModelCheck(path);
  if (!check.ok()) return fuzz::CheckMessage(check.status(), path);
  for (const auto* ids : {&check->prompt_ids, &check->ids}) {
    PENSTOCK_CHECK(!ids->empty());
    for (const int32_t id : *ids) PENSTOCK_CHECK_GE(id, 0);
  }
  bool plain = IsPlain(check->precision) && IsPlain(check->backend);
  for (const auto& [name, hash] : check->tensors) plain = plain && IsPlain(name);
  if (!plain) return;
  PENSTOCK_CHECK(!IsOfTheModel(*check));
  PENSTOCK_CHECK(WriteModelCheck(path, *check).ok());
  const auto again = ReadModelCheck(path);
  PENSTOCK_CHECK(again.ok());
  PENSTOCK_CHECK(again->prompt_ids == check->prompt_ids && again->ids == check->ids);
  PENSTOCK_CHECK(again->tensors == check->tensors);
  PENSTOCK_CHECK(!WriteModelCheck(folder.Path("nowhere/model.check.json"), *check).ok());
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const penstock::testing::TempFolder folder;  // removed at the end of the program
  penstock::ReadAndWrite(folder, {reinterpret_cast<const char*>(data), size});
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using penstock::fuzz::Format;
  static const auto* const format =
      new Format{"{",
                 {penstock::kSeed},
                 {"format", "precision", "backend", "prompt_ids", "ids", "tensors", "f32", "cpu",
                  "0123456789ABCDEF", "0x00000000000000", "-000000000000001", "lm_head.weight"},
                 penstock::fuzz::MutateJson};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
