// A model cut into slices of layers: what one slice hands over to the next changes no bit of the
// logits, whatever the family and the cut. And the comparison is one that fails: a hand-over that
// loses bits does not pass it.
#include "core/kernels/cpu_ops.h"
#include "core/model/model_registry.h"
#include "core/model/model_tensors.h"
#include "tests/support/families.h"
#include "tests/support/memory_source.h"
#include "tests/support/model_runner.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

using Cut = std::vector<LayerRange>;

constexpr int64_t kMaxTokens = 128;

// Every way to cut `layers` layers into slices.
std::vector<Cut> AllCuts(int64_t layers) {
  std::vector<Cut> cuts;
  for (int64_t mask = 0; mask < int64_t{1} << (layers - 1); ++mask) {
    Cut cut = {{0, 0}};
    for (int64_t layer = 0; layer < layers; ++layer) {
      if (layer > 0 && ((mask >> (layer - 1)) & 1) != 0) cut.push_back({layer, layer});
      cut.back().last = layer + 1;
    }
    cuts.push_back(cut);
  }
  return cuts;
}

// The slices of a model with a KV cache each, one behind the other.
class SlicedModel {
 public:
  SlicedModel(const ModelConfig& config, const WeightSource& source, const Cut& cut,
              PrefillAttention prefill)
      : config_(config), blocks_(2 * BlocksFor(config.context_length)) {
    ModelLimits limits;
    limits.max_tokens = kMaxTokens;
    limits.max_samples = kMaxTokens;
    limits.prefill_attention = prefill;
    for (const LayerRange& range : cut) {
      auto model = MakeModel(config, range, source, limits, ops_, allocator_);
      PENSTOCK_CHECK(model.ok());
      slices_.push_back(*std::move(model));
      auto cache = KvCache::Make(config, range.count(), blocks_, allocator_);
      PENSTOCK_CHECK(cache.ok());
      caches_.push_back(*std::move(cache));
    }
  }

  // Two sequences: a prompt in two chunks beside another that decodes. The logits of every token.
  std::vector<float> Logits(void (*hand_over)(Tensor rows)) {
    StepPlan first;
    first.rows = {Row(0, 0, 5), Row(1, 0, 70)};
    StepPlan second;
    second.rows = {Row(0, 5, 1), Row(1, 70, 19)};
    std::vector<float> logits;
    for (const StepPlan& plan : {first, second}) {
      auto batcher = StepBatcher::Make(
          {kMaxTokens, 2, config_.context_length, blocks_, config_.vocab_size}, allocator_);
      PENSTOCK_CHECK(batcher.ok());
      const auto batch = batcher->Build(plan);
      PENSTOCK_CHECK(batch.ok());
      const int64_t tokens = batch->num_tokens();
      for (size_t i = 0; i < slices_.size(); ++i) {
        if (i > 0) {
          const Tensor rows = slices_[i - 1]->Residual(tokens);
          hand_over(rows);
          std::memcpy(slices_[i]->Residual(tokens).raw(), rows.raw(),
                      static_cast<size_t>(rows.bytes()));
        }
        slices_[i]->Forward(*batch, caches_[i]);
      }
      std::vector<int32_t> all(static_cast<size_t>(tokens));
      for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
      const std::vector<float> some = ToVector(slices_.back()->Logits(FromVector(all)));
      logits.insert(logits.end(), some.begin(), some.end());
    }
    return logits;
  }

  int64_t weight_bytes() const {
    int64_t sum = 0;
    for (const auto& slice : slices_) sum += slice->weight_bytes();
    return sum;
  }

 private:
  PlanRow Row(int32_t slot, int64_t position, int64_t count) const {
    PlanRow row;
    row.slot = slot;
    row.position = position;
    row.blocks = BlocksOfSlot(slot, position + count, config_.context_length);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t token = (position + i) * (position + i) * 7 + slot * 31 + 3;
      row.tokens.push_back(static_cast<int32_t>(token % config_.vocab_size));
    }
    return row;
  }

  const ModelConfig config_;
  const int64_t blocks_;
  CpuOps ops_{Pool()};
  HostAllocator allocator_;
  std::vector<std::unique_ptr<Model>> slices_;
  std::vector<KvCache> caches_;
};

void AsIs(Tensor) {}
// What a transport would do that saves half of the bytes.
void AsBFloat16(Tensor rows) {
  auto* values = static_cast<float*>(rows.raw());
  for (int64_t i = 0; i < rows.num_elements(); ++i) {
    values[i] = std::bit_cast<float>(static_cast<uint32_t>(FloatToBFloat16(values[i])) << 16);
  }
}

void ExpectEveryCutIsTheWhole(const ModelConfig& config, const WeightSource& source) {
  for (const auto prefill : {PrefillAttention::kFlash, PrefillAttention::kPadded}) {
    SlicedModel whole(config, source, {{0, config.num_layers}}, prefill);
    const std::vector<float> expected = whole.Logits(&AsIs);
    for (const Cut& cut : AllCuts(config.num_layers)) {
      SlicedModel sliced(config, source, cut, prefill);
      EXPECT_EQ(sliced.Logits(&AsIs), expected) << cut.size() << " slices";
      const bool differs = sliced.Logits(&AsBFloat16) != expected;
      EXPECT_EQ(differs, cut.size() > 1) << cut.size() << " slices that lose bits";
    }
  }
}

class FamilySlicesTest : public ::testing::TestWithParam<std::string> {};

TEST_P(FamilySlicesTest, EveryCutGivesTheBitsOfTheWhole) {
  const Family family = OpenFamily(GetParam());
  ExpectEveryCutIsTheWhole(family.config, *family.weights);
}

INSTANTIATE_TEST_SUITE_P(All, FamilySlicesTest, ::testing::ValuesIn(FamilyNames()),
                         [](const auto& info) { return info.param; });

// Four layers with all that a family may have: middle slices too.
ModelConfig FullConfig(bool tied) {
  ModelConfig config;
  config.architecture = "qwen3";
  config.hidden_size = 24;
  config.intermediate_size = 40;
  config.num_layers = 4;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 50;
  config.context_length = 128;
  config.sliding_window = 40;
  config.qkv_bias = true;
  config.qk_norm = true;
  config.tied_embeddings = tied;
  return config;
}

TEST(Slices, EveryCutOfFourLayersGivesTheBitsOfTheWhole) {
  for (const bool tied : {false, true}) {
    const ModelConfig config = FullConfig(tied);
    MemorySource source;
    PutModel(config, DataType::kBF16, DataType::kF32, source);
    ExpectEveryCutIsTheWhole(config, source);
  }
}

TEST(Slices, ASliceReadsTheTensorsThatModelTensorsNamesAndNoOther) {
  for (const bool tied : {false, true}) {
    const ModelConfig config = FullConfig(tied);
    MemorySource source;
    PutModel(config, DataType::kF32, DataType::kF32, source);
    CpuOps ops(Pool());
    int64_t parameters = 0;
    for (const LayerRange range : {LayerRange{0, 1}, LayerRange{1, 3}, LayerRange{3, 4}}) {
      source.Reset();
      HostAllocator allocator;
      const auto slice = MakeModel(config, range, source, {}, ops, allocator);
      ASSERT_TRUE(IsOk(slice));
      std::set<std::string> named;
      for (const ModelTensor& tensor : ModelTensors(config, range)) named.insert(tensor.name);
      EXPECT_EQ(source.asked(), named);
      EXPECT_EQ(NumParameters(config, range) * 4, source.asked_bytes());
      EXPECT_EQ((*slice)->weight_bytes(), source.asked_bytes());
      parameters += NumParameters(config, range);
    }
    // The embedding table stands twice where it is the LM head as well.
    const int64_t twice = tied ? config.vocab_size * config.hidden_size : 0;
    EXPECT_EQ(parameters, NumParameters(config) + twice);
  }
}

}  // namespace
}  // namespace penstock
