// safetensors files that are right: types, shapes, places.
#include "core/io/safetensors.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/safetensors_builder.h"
#include "tests/support/status_matchers.h"

namespace penstock::testing {
namespace {

using absl::StatusCode;

std::vector<uint8_t> Pattern(size_t count) {
  std::vector<uint8_t> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(i * 7 + 1);
  return bytes;
}

TEST(SafetensorsTest, TensorsAreUsedInPlace) {
  const auto bytes = SafetensorsBuilder()
                         .Entry("__metadata__", R"({"format":"pt"})")
                         .F32("a", {2, 3}, 1.0f)
                         .Tensor("b", "F16", {4}, Pattern(8))
                         .Tensor("c", "BF16", {1, 1, 2}, Pattern(4))
                         .Build();
  const auto mapped = MmapFile::FromBytes("model.safetensors", bytes);
  const auto file = SafetensorsFile::Parse(mapped);
  ASSERT_TRUE(IsOk(file));
  EXPECT_EQ((*file)->TensorNames(), (std::vector<std::string_view>{"a", "b", "c"}));
  const auto a = (*file)->GetTensor("a");
  ASSERT_TRUE(IsOk(a));
  EXPECT_EQ(a->type(), DataType::kF32);
  EXPECT_EQ(a->shape(), Shape({2, 3}));
  EXPECT_EQ(static_cast<const float*>(a->raw())[5], 6.0f);
  EXPECT_GE(a->raw(), mapped->data());
  EXPECT_LT(a->raw(), mapped->data() + mapped->size());
  EXPECT_EQ((*file)->GetTensor("b")->type(), DataType::kF16);
  const auto c = (*file)->GetTensor("c");
  EXPECT_EQ(c->type(), DataType::kBF16);
  EXPECT_EQ(c->shape(), Shape({1, 1, 2}));
  EXPECT_EQ(static_cast<const uint8_t*>(c->raw())[3], Pattern(4)[3]);
}

TEST(SafetensorsTest, TheOrderOfTheHeaderIsFree) {
  SafetensorsBuilder builder;
  builder.Entry("late", R"({"dtype":"U8","shape":[3],"data_offsets":[1,4]})");
  builder.Entry("early", R"({"shape":[],"data_offsets":[0,1],"dtype":"BOOL"})");
  EXPECT_TRUE(IsOk(ParseSafetensors(builder.Data(Pattern(4)).Build())));
}

TEST(SafetensorsTest, AFileMayHoldNothing) {
  const auto file = ParseSafetensors(SafetensorsBuilder().Build());
  ASSERT_TRUE(IsOk(file));
  EXPECT_EQ((*file)->num_tensors(), 0);
  EXPECT_TRUE(Fails((*file)->GetTensor("a"), StatusCode::kNotFound, {"model.safetensors", "'a'"}));
}

// Older writers padded neither the header nor the tensors.
TEST(SafetensorsTest, ATensorOffItsAlignmentIsCopied) {
  SafetensorsBuilder builder;
  builder.Tensor("x", "BF16", {1}, Pattern(2)).F32("y", {2}, 3.0f);
  const auto file = ParseSafetensors(builder.Build());
  ASSERT_TRUE(IsOk(file));
  const auto y = (*file)->GetTensor("y");
  ASSERT_TRUE(IsOk(y));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(y->raw()) % alignof(float), 0u);
  EXPECT_EQ(static_cast<const float*>(y->raw())[1], 4.0f);
  (*file)->Forget(*y);  // nothing to forget, and no harm
  (*file)->Forget(*(*file)->GetTensor("x"));
}

TEST(SafetensorsTest, OtherElementTypesAreRefusedWhenAskedFor) {
  SafetensorsBuilder builder;
  builder.Tensor("ids", "I64", {1}, Pattern(8)).Tensor("q", "F8_E4M3", {2, 2}, Pattern(4));
  const auto file = ParseSafetensors(builder.Build());
  ASSERT_TRUE(IsOk(file));
  EXPECT_TRUE(Fails((*file)->GetTensor("ids"), StatusCode::kUnimplemented,
                    {"model.safetensors: tensor 'ids'", "I64", "F32, F16 and BF16"}));
  EXPECT_TRUE(Fails((*file)->GetTensor("q"), StatusCode::kUnimplemented, {"F8_E4M3"}));
}

// A file of 64 GiB, nearly all of it a hole: only the tensor that is asked for is read.
TEST(SafetensorsTest, OnlyTensorsAskedForAreTouched) {
  const TempFolder folder;
  SafetensorsBuilder builder;
  constexpr int64_t kHuge = int64_t{1} << 36;
  builder.F32("small", {2}, 5.0f);
  builder.Entry("huge", absl::StrCat(R"({"dtype":"U8","shape":[)", kHuge, R"(],"data_offsets":[8,)",
                                     kHuge + 8, "]}"));
  const auto bytes = builder.Build();
  const std::string path = folder.Write("model.safetensors", bytes);
  std::filesystem::resize_file(path, bytes.size() + static_cast<size_t>(kHuge));
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(IsOk(file));
  const auto small = (*file)->GetTensor("small");
  ASSERT_TRUE(IsOk(small));
  EXPECT_EQ(static_cast<const float*>(small->raw())[1], 6.0f);
}

}  // namespace
}  // namespace penstock::testing
