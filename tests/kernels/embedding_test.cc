#include "core/kernels/embedding.h"

#include "core/tensor/dequantize.h"
#include "tests/support/backends.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& ids, const Tensor& table, const Tensor& out) {
  if (backend == Backend::kCpu) return cpu::Embedding(Pool(), ids, table, out);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchEmbedding(gpu.stream(), gpu.In(ids), gpu.In(table), gpu.Out(out));
  }
}

class EmbeddingTest : public ::testing::TestWithParam<DataType> {};

TEST_P(EmbeddingTest, CopiesTheDequantizedRows) {
  const DataType type = GetParam();
  const int64_t vocab = 37;
  const int64_t hidden = 96;
  const Tensor table = Info(type).block > 1 ? RandomBlocks(type, {vocab, hidden}, 1)
                                            : As(type, Random({vocab, hidden}, 1));
  std::vector<int32_t> ids = {0, 36, 5, 5, 17};
  const Tensor out = Poisoned({5, hidden});
  cpu::Embedding(Pool(), FromVector(ids), table, out);
  for (int64_t t = 0; t < 5; ++t) {
    std::vector<float> row(hidden);
    Dequantize(type, table.Slice(ids[static_cast<size_t>(t)], 1).raw(), hidden, row.data());
    EXPECT_EQ(ToVector(out.Slice(t, 1)), row) << "token " << t;
  }
}

// Rows of whole packs and others, tables and outputs of each type.
TEST(Embedding, ConvertsBetweenTypes) {
  for (const Target& target : Targets()) {
    for (const int64_t hidden : {1, 7, 8, 40}) {
      for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
        const Tensor table = As(type, Random({19, hidden}, 3));
        std::vector<int32_t> ids = {18, 0, 3, 3};
        const Tensor out = Poisoned({4, hidden}, target.type);
        RunOn(target.backend, FromVector(ids), table, out);
        std::vector<double> reference;
        for (const int32_t id : ids) {
          for (const float value : ToVector(table.Slice(id, 1))) reference.push_back(value);
        }
        // Rounded once, and not at all where the types are the same.
        EXPECT_LE(RelativeError(out, reference), type == target.type ? 0 : Tolerance(target.type))
            << target << " from " << Name(type);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, EmbeddingTest,
                         ::testing::Values(DataType::kF32, DataType::kF16, DataType::kBF16,
                                           DataType::kQ4_1, DataType::kQ8_0),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST(EmbeddingDeathTest, RefusesAnIdOutsideTheTable) {
  const Tensor table = Random({4, 8}, 1);
  std::vector<int32_t> ids = {4};
  const Tensor out = Poisoned({1, 8});
  EXPECT_DEATH(cpu::Embedding(Pool(), FromVector(ids), table, out), "id\\[t\\] < table.dim\\(0\\)");
}

}  // namespace
}  // namespace penstock
