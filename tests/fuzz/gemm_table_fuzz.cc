// Fuzz target: any text as a table of tuned products. What is read comes back the same when it is
// written.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/check.h"
#include "core/io/gemm_table.h"
#include "tests/fuzz/check_message.h"
#include "tests/fuzz/mutator.h"
#include "tests/support/safetensors_builder.h"

namespace penstock {
namespace {

constexpr const char* kSeed =
    R"({"format":1,"gpu":"NVIDIA H200","cublaslt":130000,"products":[{"type":"bf16",)"
    R"("out_type":"f32","tokens":64,"in":4096,"out":32000,"algorithm":[66,600,2,2,0,0,36,1,3],)"
    R"("us":31.5,"heuristic_us":35.25},{"type":"f16","out_type":"f16","tokens":8,"in":64,)"
    R"("out":64,"algorithm":[1,2,3,4,5,6,7,8,9],"us":1,"heuristic_us":2}]})";

void ReadAndWrite(const testing::TempFolder& folder, std::string_view text) {
  const auto table = ParseGemmTable("table.json", text);
  if (!table.ok()) return fuzz::CheckMessage(table.status(), "table.json");
  for (const auto& [shape, tuned] : table->products) {
    PENSTOCK_CHECK_GT(shape.tokens, 0);
    PENSTOCK_CHECK(table->Find(shape) == &tuned);
    for (const int64_t value : tuned.algorithm) PENSTOCK_CHECK_GE(value, -1);
  }
  const std::string path = folder.Path("table.json");
  PENSTOCK_CHECK(WriteGemmTable(path, *table).ok());
  const auto again = ReadGemmTable(path);
  // Times are written with two digits; what is as good as none is refused then.
  if (!again.ok()) return fuzz::CheckMessage(again.status(), path);
  PENSTOCK_CHECK_EQ(again->products.size(), table->products.size());
  PENSTOCK_CHECK(!WriteGemmTable("/proc/nowhere/table.json", *table).ok());
  PENSTOCK_CHECK(DefaultGemmTablePath(table->gpu).find("..") == std::string::npos);
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
                 {"format", "gpu", "cublaslt", "products", "type", "out_type", "tokens", "in",
                  "out", "algorithm", "us", "heuristic_us", "f32", "bf16", "65536"},
                 penstock::fuzz::MutateJson};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
