// GGUF files that are well-formed: what is read from them. gguf_malformed_test.cc has the others.
#include "core/io/gguf.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/gguf_builder.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using absl::StatusCode;

std::shared_ptr<const GgufFile> MustParse(const GgufBuilder& builder) {
  auto file = ParseGguf(builder.Build());
  EXPECT_TRUE(IsOk(file));
  return file.ok() ? *file : nullptr;
}

TEST(GgufTest, OpenReadsFromDisk) {
  const std::vector<uint8_t> bytes = TinyLlamaGguf().Build();
  const std::string path = testing::TempDir() + "gguf_test_open.gguf";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  const auto file = GgufFile::Open(path);
  std::remove(path.c_str());
  ASSERT_TRUE(IsOk(file));
  EXPECT_EQ((*file)->path(), path);
  EXPECT_EQ((*file)->num_tensors(), 11);
}

TEST(GgufTest, AFileWithoutAnythingInIt) {
  const auto file = MustParse(GgufBuilder());
  EXPECT_EQ(file->num_tensors(), 0);
  EXPECT_TRUE(file->TensorNames().empty());
}

TEST(GgufTest, EveryIntegerTypeIsAnInteger) {
  GgufBuilder builder;
  builder.Value("u8", kGgufU8, GgufBytes().Put<uint8_t>(255));
  builder.Value("i8", kGgufI8, GgufBytes().Put<int8_t>(-128));
  builder.Value("u16", kGgufU16, GgufBytes().Put<uint16_t>(65535));
  builder.Value("i16", kGgufI16, GgufBytes().Put<int16_t>(-32768));
  builder.Value("u32", kGgufU32, GgufBytes().Put(UINT32_MAX));
  builder.Value("i32", kGgufI32, GgufBytes().Put(INT32_MIN));
  builder.Value("u64", kGgufU64, GgufBytes().Put(static_cast<uint64_t>(INT64_MAX)));
  builder.Value("i64", kGgufI64, GgufBytes().Put(INT64_MIN));
  builder.Value("u64.large", kGgufU64, GgufBytes().Put(uint64_t{1} << 63));
  const auto file = MustParse(builder);
  EXPECT_EQ(*file->GetInt("u8"), 255);
  EXPECT_EQ(*file->GetInt("i8"), -128);
  EXPECT_EQ(*file->GetInt("u16"), 65535);
  EXPECT_EQ(*file->GetInt("i16"), -32768);
  EXPECT_EQ(*file->GetInt("u32"), 4294967295);
  EXPECT_EQ(*file->GetInt("i32"), -2147483648LL);
  EXPECT_EQ(*file->GetInt("u64"), INT64_MAX);
  EXPECT_EQ(*file->GetInt("i64"), INT64_MIN);
  EXPECT_TRUE(Fails(file->GetInt("u64.large"), StatusCode::kInvalidArgument,
                    {"model.gguf", "'u64.large'", "u64", "below 2^63"}));
}

TEST(GgufTest, OtherValuesAndArrays) {
  GgufBuilder builder;
  // The odd length moves every later value off its natural alignment.
  builder.String("string", "hello").Float("f32", 1.25f).Bool("true", true).Bool("false", false);
  builder.Strings("strings", {"", "one", "two"}).Ints("ints", {-1, 0, 70000});
  builder.Strings("none", {});
  builder.Value(
      "u8s", kGgufArray,
      GgufBytes().Put<uint32_t>(kGgufU8).Put<uint64_t>(2).Put<uint8_t>(7).Put<uint8_t>(255));
  const auto file = MustParse(builder);
  EXPECT_EQ(*file->GetString("string"), "hello");
  EXPECT_EQ(*file->GetFloat("f32"), 1.25f);
  EXPECT_TRUE(*file->GetBool("true"));
  EXPECT_FALSE(*file->GetBool("false"));
  EXPECT_EQ(*file->GetStrings("strings"), (std::vector<std::string_view>{"", "one", "two"}));
  EXPECT_EQ(*file->GetInts("ints"), (std::vector<int64_t>{-1, 0, 70000}));
  EXPECT_EQ(*file->GetInts("u8s"), (std::vector<int64_t>{7, 255}));
  EXPECT_TRUE(file->GetStrings("none")->empty());
  EXPECT_TRUE(file->HasKey("ints"));
  EXPECT_FALSE(file->HasKey("int"));
}

TEST(GgufTest, StringsAreViewsIntoTheFile) {
  const auto file = MustParse(GgufBuilder().Strings("strings", {"abc"}));
  const std::vector<std::string_view> strings = *file->GetStrings("strings");
  const auto* data = reinterpret_cast<const char*>(file->file()->data());
  EXPECT_GE(strings[0].data(), data);
  EXPECT_LT(strings[0].data(), data + file->file()->size());
}

TEST(GgufTest, MissingKeysAndOtherTypesAreErrorsThatNameThem) {
  GgufBuilder builder;
  builder.Int("int", 1).Float("f32", 1.0f).Strings("strings", {"a"}).Ints("ints", {1});
  builder.Value("u64s", kGgufArray,
                GgufBytes().Put<uint32_t>(kGgufU64).Put<uint64_t>(1).Put(UINT64_MAX));
  const auto file = MustParse(builder);
  EXPECT_TRUE(Fails(file->GetInt("n"), StatusCode::kNotFound, {"model.gguf", "'n'"}));
  EXPECT_TRUE(Fails(file->GetStrings("n"), StatusCode::kNotFound, {"model.gguf", "'n'"}));
  EXPECT_TRUE(Fails(file->GetInt("f32"), StatusCode::kInvalidArgument,
                    {"model.gguf", "'f32'", "of type f32", "an integer is expected"}));
  EXPECT_TRUE(Fails(file->GetInt("ints"), StatusCode::kInvalidArgument, {"an array of i32"}));
  EXPECT_TRUE(Fails(file->GetFloat("int"), StatusCode::kInvalidArgument, {"an f32 is expected"}));
  EXPECT_TRUE(Fails(file->GetBool("int"), StatusCode::kInvalidArgument, {"a bool is expected"}));
  EXPECT_TRUE(
      Fails(file->GetString("strings"), StatusCode::kInvalidArgument, {"an array of string"}));
  EXPECT_TRUE(Fails(file->GetStrings("ints"), StatusCode::kInvalidArgument, {"array of strings"}));
  EXPECT_TRUE(Fails(file->GetInts("int"), StatusCode::kInvalidArgument, {"of type u32"}));
  EXPECT_TRUE(Fails(file->GetInts("strings"), StatusCode::kInvalidArgument, {"array of integers"}));
  EXPECT_TRUE(Fails(file->GetInts("u64s"), StatusCode::kInvalidArgument, {"below 2^63"}));
}

TEST(GgufTest, TensorsAreViewsOutermostDimensionFirst) {
  GgufBuilder builder;
  builder.F32Tensor("norm", {3}, 5.0f).F32Tensor("table", {4, 3, 2}, 0.0f);
  builder.Tensor("f16", {2}, 1, {0x00, 0x3c, 0x00, 0xc0});
  builder.Tensor("bf16", {1}, 30, {0x80, 0x3f});
  const auto file = MustParse(builder);
  EXPECT_EQ(file->TensorNames(), (std::vector<std::string_view>{"bf16", "f16", "norm", "table"}));
  const Tensor table = *file->GetTensor("table");
  EXPECT_EQ(table.shape(), Shape({2, 3, 4}));
  EXPECT_EQ(table.type(), DataType::kF32);
  EXPECT_EQ(static_cast<const float*>(table.raw())[23], 23.0f);
  EXPECT_EQ(static_cast<const float*>(file->GetTensor("norm")->raw())[1], 6.0f);
  EXPECT_EQ(file->GetTensor("f16")->type(), DataType::kF16);
  EXPECT_EQ(file->GetTensor("bf16")->type(), DataType::kBF16);
  EXPECT_TRUE(file->HasTensor("table"));
  EXPECT_FALSE(file->HasTensor("tables"));
  EXPECT_TRUE(Fails(file->GetTensor("x"), StatusCode::kNotFound, {"model.gguf", "tensor 'x'"}));
}

TEST(GgufTest, ATensorOutlivesTheFile) {
  Tensor tensor;
  { tensor = *MustParse(GgufBuilder().F32Tensor("t", {2}, 8.0f))->GetTensor("t"); }
  EXPECT_EQ(static_cast<const float*>(tensor.raw())[1], 9.0f);
}

TEST(GgufTest, AnotherAlignmentIsHonoured) {
  for (const uint32_t alignment : {8u, 64u, 4096u}) {
    const auto file = MustParse(
        GgufBuilder().Alignment(alignment).F32Tensor("a", {1}, 1.0f).F32Tensor("b", {1}, 2.0f));
    const Tensor b = *file->GetTensor("b");
    EXPECT_EQ(*static_cast<const float*>(b.raw()), 2.0f);
    EXPECT_EQ((static_cast<const uint8_t*>(b.raw()) - file->file()->data()) % alignment, 0);
  }
}

TEST(GgufWeightSourceTest, HandsOutCanonicalNames) {
  const auto source = MakeGgufWeightSource(MustParse(TinyLlamaGguf()));
  EXPECT_EQ(source->rope_rows(), WeightSource::RopeRows::kInterleaved);
  const struct {
    const char* name;
    Shape shape;
  } tensors[] = {
      {"embed_tokens.weight", {8, 32}},
      {"norm.weight", {32}},
      {"layers.0.input_layernorm.weight", {32}},
      {"layers.0.self_attn.q_proj.weight", {32, 32}},
      {"layers.0.self_attn.k_proj.weight", {16, 32}},
      {"layers.0.self_attn.v_proj.weight", {16, 32}},
      {"layers.0.self_attn.o_proj.weight", {32, 32}},
      {"layers.0.post_attention_layernorm.weight", {32}},
      {"layers.0.mlp.gate_proj.weight", {64, 32}},
      {"layers.0.mlp.up_proj.weight", {64, 32}},
      {"layers.0.mlp.down_proj.weight", {32, 64}},
  };
  for (const auto& tensor : tensors) {
    EXPECT_TRUE(source->Contains(tensor.name)) << tensor.name;
    EXPECT_TRUE(IsOk(source->Get(tensor.name, tensor.shape))) << tensor.name;
  }
  const Tensor norm = *source->Get("norm.weight", {32});
  EXPECT_EQ(*static_cast<const float*>(norm.raw()), 3.0f);
  source->Forget(norm);
  for (const char* name :
       {"lm_head.weight", "layers.0.self_attn.q_proj.bias", "layers.1.mlp.up_proj.weight",
        "layers.00.mlp.up_proj.weight", "layers.+0.mlp.up_proj.weight", "layers.mlp", "layers.0",
        "layers.99999999999999999999.mlp.up_proj.weight", "token_embd.weight", ""}) {
    EXPECT_FALSE(source->Contains(name)) << name;
    EXPECT_TRUE(Fails(source->Get(name, {1}), StatusCode::kNotFound, {"model.gguf"})) << name;
  }
}

TEST(GgufWeightSourceTest, BiasesAndAnLmHeadWhereThereAreAny) {
  const auto source = MakeGgufWeightSource(MustParse(TinyLlamaGguf()
                                                         .F32Tensor("blk.0.attn_q.bias", {32}, 0)
                                                         .F32Tensor("blk.0.attn_k.bias", {16}, 0)
                                                         .F32Tensor("blk.0.attn_v.bias", {16}, 0)
                                                         .F32Tensor("output.weight", {32, 8}, 0)));
  EXPECT_TRUE(IsOk(source->Get("layers.0.self_attn.q_proj.bias", {32})));
  EXPECT_TRUE(IsOk(source->Get("layers.0.self_attn.k_proj.bias", {16})));
  EXPECT_TRUE(IsOk(source->Get("layers.0.self_attn.v_proj.bias", {16})));
  EXPECT_TRUE(IsOk(source->Get("lm_head.weight", {8, 32})));
}

TEST(GgufWeightSourceTest, AnotherShapeIsAnErrorWithBoth) {
  const auto source = MakeGgufWeightSource(MustParse(TinyLlamaGguf()));
  EXPECT_TRUE(Fails(source->Get("layers.0.self_attn.k_proj.weight", {32, 32}),
                    StatusCode::kInvalidArgument,
                    {"model.gguf", "'blk.0.attn_k.weight'", "[16, 32]", "[32, 32]"}));
}

}  // namespace
}  // namespace penstock
