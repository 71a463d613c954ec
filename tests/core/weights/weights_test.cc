// The weight classes over the dummy source and over a small GGUF file.
#include <algorithm>
#include <cstring>
#include <utility>

#include "core/io/dummy_weights.h"
#include "core/io/gguf.h"
#include "core/io/model_file.h"
#include "core/model/llama/llama_weight.h"
#include "tests/support/memory_source.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

ModelConfig SmallConfig() {
  ModelConfig config;
  config.architecture = "llama";
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 50;
  config.context_length = 64;
  return config;
}

TEST(LlamaWeight, DummyLoadIsTheSameHoweverTheLayersAreSliced) {
  const ModelConfig config = SmallConfig();
  const auto source = MakeDummyWeightSource(1, config, DataType::kF32, Allocator());
  const WeightLoader loader{*source, config, Allocator()};
  LlamaWeight whole({0, 3});
  ASSERT_TRUE(IsOk(whole.Load(loader, "")));
  LlamaWeight middle({1, 2});
  ASSERT_TRUE(IsOk(middle.Load(loader, "")));
  LlamaWeight last({2, 3});
  ASSERT_TRUE(IsOk(last.Load(loader, "")));

  EXPECT_EQ(ToVector(whole.layers[1].attention.qkv.tensors[0]),
            ToVector(middle.layers[0].attention.qkv.tensors[0]));
  EXPECT_EQ(ToVector(whole.layers[2].ffn.down), ToVector(last.layers[0].ffn.down));
  EXPECT_EQ(ToVector(whole.lm_head), ToVector(last.lm_head));
  EXPECT_NE(ToVector(whole.layers[0].ffn.down), ToVector(whole.layers[1].ffn.down));
  // A worker holds its slice only.
  EXPECT_TRUE(middle.embedding.table.empty());
  EXPECT_TRUE(middle.lm_head.empty());
  EXPECT_TRUE(last.embedding.table.empty());
  EXPECT_EQ(middle.bytes(), whole.layers[1].bytes());
}

TEST(LlamaWeight, AnotherSeedIsAnotherModel) {
  const ModelConfig config = SmallConfig();
  LlamaWeight one({0, 3});
  LlamaWeight two({0, 3});
  const auto first = MakeDummyWeightSource(1, config, DataType::kF32, Allocator());
  const auto second = MakeDummyWeightSource(2, config, DataType::kF32, Allocator());
  ASSERT_TRUE(IsOk(one.Load({*first, config, Allocator()}, "")));
  ASSERT_TRUE(IsOk(two.Load({*second, config, Allocator()}, "")));
  EXPECT_NE(ToVector(one.embedding.table), ToVector(two.embedding.table));
}

TEST(DummySource, Bf16IsTheRoundedF32) {
  ModelConfig config = SmallConfig();
  config.qkv_bias = true;
  config.qk_norm = true;
  const auto f32 = MakeDummyWeightSource(3, config, DataType::kF32, Allocator());
  const auto bf16 = MakeDummyWeightSource(3, config, DataType::kBF16, Allocator());
  const auto infos = bf16->Tensors();
  EXPECT_EQ(infos.size(), 3u + 3u * 14u);
  for (const TensorInfo& info : infos) {
    const Tensor exact = *f32->Get(info.name, info.shape);
    const Tensor rounded = *bf16->Get(info.name, info.shape);
    EXPECT_EQ(rounded.type(), info.type) << info.name;
    const auto* expected = static_cast<const float*>(exact.raw());
    for (int64_t i = 0; i < exact.num_elements(); ++i) {
      if (info.shape.rank() == 2) {
        ASSERT_EQ(static_cast<const uint16_t*>(rounded.raw())[i], FloatToBFloat16(expected[i]));
      } else {
        ASSERT_EQ(static_cast<const float*>(rounded.raw())[i], expected[i]);
        const bool norm = info.name.ends_with("norm.weight");
        ASSERT_TRUE(!norm || expected[i] == 1.0f) << info.name;
      }
    }
  }
  EXPECT_NE(ToVector(*f32->Get("layers.0.self_attn.q_proj.bias", {32})),
            ToVector(*f32->Get("layers.1.self_attn.q_proj.bias", {32})));
}

TEST(LlamaWeight, TiedEmbeddingsAreTheLmHeadAndCountOnce) {
  ModelConfig config = SmallConfig();
  config.tied_embeddings = true;
  const auto source = MakeDummyWeightSource(1, config, DataType::kF32, Allocator());
  LlamaWeight weight({0, 3});
  ASSERT_TRUE(IsOk(weight.Load({*source, config, Allocator()}, "")));
  EXPECT_EQ(weight.lm_head.raw(), weight.embedding.table.raw());
  int64_t bytes = weight.embedding.bytes() + weight.norm.bytes();
  for (const LayerWeight& layer : weight.layers) bytes += layer.bytes();
  EXPECT_EQ(weight.bytes(), bytes);
}

// Query and key rows of a GGUF file are paired (2i, 2i + 1) in every head; here (i, i + d / 2).
TEST(LlamaWeight, QueryAndKeyRowsAreReorderedOnce) {
  const auto file = ParseGguf(TinyModel().Build());
  ASSERT_TRUE(IsOk(file));
  const auto config = ReadGgufConfig(**file);
  ASSERT_TRUE(IsOk(config));
  const auto source = MakeGgufWeightSource(*file);
  LlamaWeight weight({0, 2});
  ASSERT_TRUE(IsOk(weight.Load({*source, *config, Allocator()}, "")));

  const auto row = [](const Tensor& tensor, int64_t i) { return Bytes(tensor.Slice(i, 1)); };
  ASSERT_EQ(weight.layers[1].attention.qkv.tensors.size(), 1u);
  const Tensor& qkv = weight.layers[1].attention.qkv.tensors[0];
  const Tensor q = *(*file)->GetTensor("blk.1.attn_q.weight");
  const Tensor k = *(*file)->GetTensor("blk.1.attn_k.weight");
  const Tensor v = *(*file)->GetTensor("blk.1.attn_v.weight");
  const int64_t dim = config->head_dim;
  for (int64_t head = 0; head < 4; ++head) {
    for (int64_t i = 0; i < dim / 2; ++i) {
      EXPECT_EQ(row(qkv, head * dim + i), row(q, head * dim + 2 * i));
      EXPECT_EQ(row(qkv, head * dim + dim / 2 + i), row(q, head * dim + 2 * i + 1));
    }
  }
  EXPECT_EQ(row(qkv, 64 + 16 + 1), row(k, 16 + 2));
  EXPECT_EQ(row(qkv, 64 + 16 + 8 + 1), row(k, 16 + 3));
  EXPECT_EQ(Bytes(qkv.Slice(96, 32)), Bytes(v));
  const Tensor& gate_up = weight.layers[0].ffn.gate_up.tensors[0];
  EXPECT_EQ(Bytes(gate_up.Slice(0, 96)), Bytes(*(*file)->GetTensor("blk.0.ffn_gate.weight")));
  EXPECT_EQ(Bytes(gate_up.Slice(96, 96)), Bytes(*(*file)->GetTensor("blk.0.ffn_up.weight")));
  // The others lie in the file itself.
  EXPECT_EQ(weight.layers[0].ffn.down.raw(), (*file)->GetTensor("blk.0.ffn_down.weight")->raw());
}

// Files of mixed quantization: v is often of a better type than q and k.
TEST(LlamaWeight, PartsOfAnotherTypeStayApart) {
  const auto file = ParseGguf(TinyModel(2, /*v_as_q8_0=*/true).Build());
  ASSERT_TRUE(IsOk(file));
  const auto config = ReadGgufConfig(**file);
  ASSERT_TRUE(IsOk(config));
  const auto source = MakeGgufWeightSource(*file);
  LlamaWeight weight({0, 2});
  ASSERT_TRUE(IsOk(weight.Load({*source, *config, Allocator()}, "")));
  const std::vector<Tensor>& qkv = weight.layers[0].attention.qkv.tensors;
  ASSERT_EQ(qkv.size(), 2u);
  EXPECT_EQ(qkv[0].shape(), Shape({96, 64}));
  EXPECT_EQ(qkv[1].shape(), Shape({32, 64}));
  EXPECT_EQ(qkv[1].raw(), (*file)->GetTensor("blk.0.attn_v.weight")->raw());
}

TEST(LlamaWeight, AMissingTensorIsNamed) {
  GgufBuilder builder;
  const auto file = ParseGguf(builder.Build());
  ASSERT_TRUE(IsOk(file));
  const ModelConfig config = SmallConfig();
  const auto source = MakeGgufWeightSource(*file);
  LlamaWeight weight({0, 3});
  EXPECT_TRUE(Fails(weight.Load({*source, config, Allocator()}, ""), absl::StatusCode::kNotFound,
                    {"model.gguf", "token_embd.weight"}));
}

// Whoever takes packed rows elsewhere reads them as the files have them, in parts that fit its
// buffers, and puts each row where the order says. In memory they are in place already, whoever
// reads them: rows and heads may be cut anywhere between blocks.
TEST(PackRows, PartsOfAnyBoundsAreTheWhole) {
  MemorySource source(WeightSource::RopeRows::kInterleaved);
  // Rows of 50 blocks, so that those who share the reading cut them.
  constexpr int64_t kColumns = 1600;
  const std::vector<WeightPart> parts = {{"q", 24, 3}, {"k", 16, 2}, {"v", 8}};
  for (const WeightPart& part : parts) {
    source.Put(part.name, RandomBlocks(DataType::kQ4_1, {part.rows, kColumns}, 1));
  }
  WeightStream stream;
  const ModelConfig config;
  const WeightLoader loader{source, config, Allocator(), [&](const WeightStream& packed) {
                              stream = packed;
                              return packed.InMemory(Allocator(), nullptr);
                            }};
  const absl::StatusOr<PackedWeight> packed = PackRows(loader, parts, kColumns);
  ASSERT_TRUE(IsOk(packed));
  const absl::StatusOr<Tensor> shared = stream.InMemory(Allocator(), &Pool());
  ASSERT_TRUE(IsOk(shared));
  EXPECT_EQ(Bytes(*shared), Bytes(packed->tensors[0]));
  EXPECT_EQ(stream.order.rows, 40);
  EXPECT_EQ(stream.order.head_dim, 8);
  constexpr int64_t kHead = 8 * kColumns;
  const int64_t elements = stream.shape.num_elements();
  for (const int64_t size : {int64_t{32}, int64_t{160}, kHead - 32, kHead, kHead + 64, 3 * kHead}) {
    const Tensor joined = Poisoned(stream.shape, DataType::kQ4_1);
    auto* place = static_cast<uint8_t*>(const_cast<void*>(joined.raw()));
    for (int64_t first = 0; first < elements; first += size) {
      stream.read(first, std::min(size, elements - first), place + first / 32 * sizeof(BlockQ4_1));
    }
    for (int64_t row = 0; row < stream.shape[0]; ++row) {
      EXPECT_EQ(Bytes(joined.Slice(row, 1)),
                Bytes(packed->tensors[0].Slice(stream.order.Place(row), 1)));
      EXPECT_EQ(stream.order.Origin(stream.order.Place(row)), row);
    }
  }
  // Row 5 of the second key head: what its rotation pairs with row 1 of the head.
  const Tensor keys = *source.Get("k", {16, kColumns});
  EXPECT_EQ(Bytes(packed->tensors[0].Slice(24 + 8 + 5, 1)), Bytes(keys.Slice(8 + 3, 1)));
}

// A backend with memory of its own takes every tensor there. The file forgets its own ones, and not
// the packed copies, which are none of its bytes.
TEST(LlamaWeight, EveryTensorGoesToItsPlace) {
  const TempFile file(TinyModel().Build());
  const absl::StatusOr<ModelFile> model = OpenModel(file.path());
  ASSERT_TRUE(IsOk(model));
  const WeightLoader in_place{*model->weights, model->config, Allocator()};
  std::vector<const void*> places;
  WeightLoader elsewhere = in_place;
  elsewhere.place = [&](const WeightStream& packed) -> absl::StatusOr<Tensor> {
    WeightStream stream = packed;
    stream.tensor = Tensor();
    PENSTOCK_ASSIGN_OR_RETURN(Tensor copy, stream.InMemory(Allocator(), nullptr));
    places.push_back(std::as_const(copy).raw());
    return copy;
  };
  const LayerRange all = {0, model->config.num_layers};
  LlamaWeight expected(all);
  LlamaWeight weight(all);
  ASSERT_TRUE(IsOk(expected.Load(in_place, "")));
  ASSERT_TRUE(IsOk(weight.Load(elsewhere, "")));
  const auto check = [&](const Tensor& tensor, const Tensor& original) {
    EXPECT_EQ(std::count(places.begin(), places.end(), tensor.raw()), 1);
    EXPECT_EQ(Bytes(tensor), Bytes(original));
  };
  check(weight.embedding.table, expected.embedding.table);
  check(weight.norm.gain, expected.norm.gain);
  for (size_t i = 0; i < weight.layers.size(); ++i) {
    const LayerWeight& a = weight.layers[i];
    const LayerWeight& b = expected.layers[i];
    check(a.input_norm.gain, b.input_norm.gain);
    check(a.attention.qkv.tensors[0], b.attention.qkv.tensors[0]);
    check(a.attention.output, b.attention.output);
    check(a.post_attention_norm.gain, b.post_attention_norm.gain);
    check(a.ffn.gate_up.tensors[0], b.ffn.gate_up.tensors[0]);
    check(a.ffn.down, b.ffn.down);
  }
  EXPECT_EQ(places.size(), 2 + 6 * weight.layers.size());
  EXPECT_EQ(weight.bytes(), expected.bytes());
}

}  // namespace
}  // namespace penstock
