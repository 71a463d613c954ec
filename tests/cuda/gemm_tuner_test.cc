// Tuning on a small model, and products by tables: those that it makes and those that no library
// would.
#include "cuda/gemm_tuner.h"

#include <optional>

#include "core/base/check.h"
#include "cuda/blas.h"
#include "cuda/cuda_allocator.h"
#include "cuda/lt_linear.h"
#include "cuda/measuring.h"
#include "cuda/stream.h"
#include "tests/support/gpu.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

ModelConfig SmallConfig() {
  ModelConfig config;
  config.hidden_size = 256;
  config.intermediate_size = 384;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 64;
  config.vocab_size = 1000;
  config.context_length = 512;
  return config;
}

class GemmTunerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::GpuCall::Available()) GTEST_SKIP();
    auto memory = MakeCudaAllocator(0);
    ASSERT_TRUE(memory.ok());
    memory_ = std::move(*memory);
    stream_.emplace();
  }

  Tensor Random(DataType type, const Shape& shape, uint32_t seed) {
    auto tensor = Tensor::Make(type, shape, *memory_);
    PENSTOCK_CHECK(tensor.ok());
    cuda::FillRandom(stream_->get(), *tensor, seed);
    return *tensor;
  }
  // Of products of these shapes by the table.
  void CheckProducts(const GemmTable& table) {
    cuda::Blas blas;
    blas.UseTable(table);
    for (const auto& [shape, tuned] : table.products) {
      const Tensor weight = Random(shape.type, {shape.out_features, shape.in_features}, 1);
      for (const int64_t tokens : {shape.tokens, shape.tokens - 1, (shape.tokens + 2) / 2}) {
        if (tokens == 0) continue;
        const Tensor x = Random(shape.type, {tokens, shape.in_features}, 2);
        const Tensor out = Random(shape.out_type, {tokens, shape.out_features}, 3);
        blas.Linear(stream_->get(), x, weight, out);
        EXPECT_LE(cuda::ProductError(stream_->get(), x, weight, out, tokens),
                  shape.type == DataType::kF32 ? 1e-5 : 1e-2)
            << shape.out_features << " x " << shape.in_features << ", " << tokens << " tokens";
      }
    }
  }

  std::unique_ptr<PoolAllocator> memory_;
  std::optional<CudaStream> stream_;
};

TEST_F(GemmTunerTest, HasARowForEachProductAndItsAlgorithmIsRight) {
  for (const DataType type : {DataType::kBF16, DataType::kF32}) {
    int64_t reports = 0;
    const auto table =
        TuneGemms(SmallConfig(), {0, type, 64, 16},
                  [&](const GemmShape& shape, const TunedGemm& tuned, int64_t done, int64_t total) {
                    EXPECT_EQ(shape.tokens, cuda::LtLinear::TokenBucket(shape.tokens));
                    EXPECT_GT(tuned.microseconds, 0);
                    EXPECT_LE(tuned.microseconds, tuned.heuristic_microseconds);
                    EXPECT_EQ(done, ++reports);
                    EXPECT_LE(done, total);
                  });
    ASSERT_TRUE(table.ok()) << table.status();
    EXPECT_EQ(table->gpu, cuda::GemmTableOfGpu(0).gpu);
    EXPECT_EQ(table->library_version, cuda::GemmTableOfGpu(0).library_version);
    // 1, 2, 3, ... 64 tokens, of bf16 from 12 on; 32 rows of the LM head.
    EXPECT_EQ(table->products.size(), type == DataType::kBF16 ? 4u * 6 + 4 : 4u * 12 + 10);
    CheckProducts(*table);
    const auto again = ParseGemmTable("table", GemmTableJson(*table));
    ASSERT_TRUE(again.ok()) << again.status();
    CheckProducts(*again);
  }
}

TEST_F(GemmTunerTest, AnAlgorithmThatTheLibraryRefusesIsNotUsed) {
  for (const GemmAlgorithm& algorithm :
       {GemmAlgorithm{9999}, GemmAlgorithm{66, 65535, 1, 0, 0, 0, 35, 0, 3},
        GemmAlgorithm{66, 13, 1, 0, 0, 0, 99999, 65535, 65535},
        GemmAlgorithm{INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX,
                      UINT16_MAX, UINT16_MAX}}) {
    GemmTable table = cuda::GemmTableOfGpu(0);
    table.products[{DataType::kBF16, DataType::kBF16, 256, 512, 64}] = {algorithm, 1, 1};
    CheckProducts(table);
  }
}

}  // namespace
}  // namespace penstock
