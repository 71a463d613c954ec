// The model hash changes with everything that a model is, and with nothing else.
#include "core/io/model_hash.h"

#include <functional>
#include <set>

#include "core/io/dummy_weights.h"
#include "core/io/model_file.h"
#include "tests/support/families.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensors.h"
#include "tests/support/tiny_model.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

ModelConfig Config() {
  ModelConfig config;
  config.architecture = "llama";
  config.hidden_size = 24;
  config.intermediate_size = 40;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 50;
  config.context_length = 64;
  return config;
}

// A source that says what the test wants.
class ListedSource final : public WeightSource {
 public:
  explicit ListedSource(std::vector<TensorInfo> tensors) : tensors_(std::move(tensors)) {}
  bool Contains(std::string_view) const override { return false; }
  absl::StatusOr<Tensor> Get(std::string_view name, const Shape&) const override {
    ADD_FAILURE() << "the hash reads no tensor, but asked for " << name;
    return absl::NotFoundError("");
  }
  std::vector<TensorInfo> Tensors() const override { return tensors_; }
  RopeRows rope_rows() const override { return RopeRows::kHalves; }
  void Forget(const Tensor&) const override {}

 private:
  const std::vector<TensorInfo> tensors_;
};

std::vector<TensorInfo> Tensors() {
  return {{"a", DataType::kF32, {2, 3}}, {"b", DataType::kBF16, {4}}};
}

TEST(ModelHash, ChangesWithEveryFieldOfTheConfiguration) {
  // A field more does not compile here: it wants a line below, and one in model_hash.cc.
  const ModelConfig all = Config();
  [[maybe_unused]] const auto& [a, b, c, d, e, f, g, h, i, j, k, l, scaling, n, o, p, q] = all;
  [[maybe_unused]] const auto& [t, u, v, w, x, y] = scaling;
  const std::function<void(ModelConfig&)> changes[] = {
      [](ModelConfig&) {},
      [](ModelConfig& c) { c.architecture = "mistral"; },
      [](ModelConfig& c) { ++c.hidden_size; },
      [](ModelConfig& c) { ++c.intermediate_size; },
      [](ModelConfig& c) { ++c.num_layers; },
      [](ModelConfig& c) { ++c.num_heads; },
      [](ModelConfig& c) { ++c.num_kv_heads; },
      [](ModelConfig& c) { ++c.head_dim; },
      [](ModelConfig& c) { ++c.vocab_size; },
      [](ModelConfig& c) { ++c.context_length; },
      [](ModelConfig& c) { c.rms_norm_eps = 1e-6f; },
      [](ModelConfig& c) { c.rope_theta = 500000.0f; },
      [](ModelConfig& c) { c.rope_scaling.type = RopeScaling::Type::kLinear; },
      [](ModelConfig& c) { c.rope_scaling.factor = 2.0f; },
      [](ModelConfig& c) { c.rope_scaling.low_freq_factor = 2.0f; },
      [](ModelConfig& c) { c.rope_scaling.high_freq_factor = 2.0f; },
      [](ModelConfig& c) { c.rope_scaling.original_context = 4096; },
      [](ModelConfig& c) { c.rope_scaling.factors = {1.0f}; },
      [](ModelConfig& c) {
        c.rope_scaling.factors = {1.0f, 2.0f};
      },
      [](ModelConfig& c) { c.sliding_window = 1; },
      [](ModelConfig& c) { c.qkv_bias = true; },
      [](ModelConfig& c) { c.qk_norm = true; },
      [](ModelConfig& c) { c.tied_embeddings = true; },
  };
  const ListedSource source(Tensors());
  std::set<uint64_t> hashes;
  for (const auto& change : changes) {
    ModelConfig config = Config();
    change(config);
    hashes.insert(ModelHash(config, source));
  }
  EXPECT_EQ(hashes.size(), std::size(changes));
}

TEST(ModelHash, ChangesWithEveryTensor) {
  const std::function<void(std::vector<TensorInfo>&)> changes[] = {
      [](std::vector<TensorInfo>&) {},
      [](std::vector<TensorInfo>& t) { t[0].name = "ab"; },
      [](std::vector<TensorInfo>& t) { t[1].name = "c"; },
      [](std::vector<TensorInfo>& t) { t[1].type = DataType::kF16; },
      [](std::vector<TensorInfo>& t) {
        t[0].shape = {3, 2};
      },
      [](std::vector<TensorInfo>& t) { t[0].shape = {6}; },
      [](std::vector<TensorInfo>& t) { t.pop_back(); },
      [](std::vector<TensorInfo>& t) {
        t.push_back({"c", DataType::kF32, {1}});
      },
  };
  std::set<uint64_t> hashes;
  for (const auto& change : changes) {
    std::vector<TensorInfo> tensors = Tensors();
    change(tensors);
    hashes.insert(ModelHash(Config(), ListedSource(tensors)));
  }
  EXPECT_EQ(hashes.size(), std::size(changes));
}

// One model in two places has one hash: the name, which may be the folder's, is not in it.
TEST(ModelHash, DoesNotChangeWithThePlace) {
  ModelConfig renamed = Config();
  renamed.name = "elsewhere";
  const ListedSource source(Tensors());
  EXPECT_EQ(ModelHash(renamed, source), ModelHash(Config(), source));
}

// Every format says what its tensors are.
TEST(ModelHash, TellsModelsOfEveryFormatApart) {
  const TempFile tiny(TinyModel().Build());
  const TempFile same(TinyModel().Build());
  const TempFile mixed(TinyModel(2, /*v_as_q8_0=*/true).Build());
  const auto hash = [](const std::string& path) {
    const auto file = OpenModel(path);
    EXPECT_TRUE(IsOk(file));
    return ModelHash(file->config, *file->weights);
  };
  std::set<uint64_t> hashes = {hash(tiny.path()), hash(mixed.path()), hash("dummy:tiny")};
  for (const std::string& family : FamilyNames()) hashes.insert(hash(FamilyFolder(family)));
  EXPECT_EQ(hashes.size(), 3 + FamilyNames().size());
  EXPECT_EQ(hash(tiny.path()), hash(same.path()));
  const auto f32 = MakeDummyWeightSource(1, Config(), DataType::kF32, Allocator());
  const auto bf16 = MakeDummyWeightSource(1, Config(), DataType::kBF16, Allocator());
  EXPECT_NE(ModelHash(Config(), *f32), ModelHash(Config(), *bf16));
}

}  // namespace
}  // namespace penstock
