#include "core/io/model_bytes.h"

#include <gtest/gtest.h>

#include "core/base/kv_block.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace penstock::testing {
namespace {

TEST(ModelBytesTest, PartsOfAFile) {
  for (const bool q8 : {false, true}) {
    const TempFile path(TinyModel(2, q8).Build());
    const auto file = OpenModel(path.path());
    ASSERT_TRUE(IsOk(file));
    const auto bytes = MeasureModel(*file);
    ASSERT_TRUE(IsOk(bytes));
    ASSERT_EQ(bytes->layers.size(), 2u);
    int64_t sum = bytes->embedding + bytes->norm + bytes->head;
    for (const int64_t layer : bytes->layers) sum += layer;
    int64_t tensors = 0;
    for (const TensorInfo& info : file->weights->Tensors()) {
      tensors += *TensorBytes(info.type, info.shape);
    }
    EXPECT_EQ(sum, tensors);
    EXPECT_EQ(bytes->norm, 64 * 4);
    EXPECT_EQ(bytes->head, 0);  // tied
    EXPECT_EQ(bytes->kv_block, 2 * 2 * 16 * kBlockSize * 4);
  }
}

TEST(ModelBytesTest, AModelWithoutAFileIsMeasuredWithoutMakingIt) {
  const auto file = OpenModel("dummy:llama-3-8b");
  ASSERT_TRUE(IsOk(file));
  const auto bytes = MeasureModel(*file);
  ASSERT_TRUE(IsOk(bytes));
  EXPECT_EQ(bytes->layers, std::vector<int64_t>(32, bytes->layers[0]));
  EXPECT_EQ(bytes->embedding, int64_t{128256} * 4096 * 2);  // bf16
  EXPECT_EQ(bytes->head, bytes->embedding);
}

TEST(ModelBytesTest, AMissingTensorIsNamed) {
  const TempFile path(TinyModel().Build());
  auto file = OpenModel(path.path());
  ASSERT_TRUE(IsOk(file));
  file->config.num_layers = 3;
  EXPECT_TRUE(
      Fails(MeasureModel(*file), absl::StatusCode::kNotFound, {"layers.2.input_layernorm.weight"}));
}

}  // namespace
}  // namespace penstock::testing
