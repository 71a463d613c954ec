// Products that a backend wants in f32 beside the activations (Ops::FloatRows): of steps of few
// rows bias_rope and swiglu read them where they are, and nobody what lies in qkv; of steps with
// more nothing changes. Here both are f32, so neither changes a bit of the logits.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/kernels/cpu_ops.h"
#include "tests/support/memory_source.h"
#include "tests/support/model_runner.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr int64_t kFew = 7;
constexpr int64_t kMaxTokens = 64;

ModelConfig SmallConfig() {
  ModelConfig config;
  config.architecture = "qwen3";
  config.hidden_size = 24;
  config.intermediate_size = 40;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 50;
  config.context_length = 128;
  config.qkv_bias = true;
  config.qk_norm = true;
  return config;
}

// Wants both products of up to kFew rows apart, and counts by a step's rows which it gets so.
class FloatOps final : public CpuOps {
 public:
  using CpuOps::CpuOps;

  int64_t FloatRows(DataType activations, int64_t columns) const override {
    EXPECT_EQ(activations, DataType::kF32);
    return wants_ && (columns == 64 || columns == 80) ? kFew : 0;
  }
  void Linear(const Tensor& x, const Tensor& weight, const Tensor& out) override {
    if (out.dim(1) == 64 || out.dim(1) == 80) places_[out.dim(1)].insert(out.raw());
    CpuOps::Linear(x, weight, out);
  }
  void BiasRope(const BiasRopeArgs& args) override {
    ++(args.product == nullptr ? in_place : apart);
    if (args.product != nullptr) {
      std::fill_n(static_cast<float*>(Tensor(args.qkv).raw()), args.qkv.num_elements(),
                  std::nanf(""));
    }
    CpuOps::BiasRope(args);
  }

  // How many tensors products of so many columns have gone to.
  size_t places(int64_t columns) { return places_[columns].size(); }
  void set_wants(bool wants) { wants_ = wants; }

  int in_place = 0;
  int apart = 0;

 private:
  bool wants_ = true;
  std::map<int64_t, std::set<const void*>> places_;
};

class FloatRowsTest : public ::testing::Test {
 protected:
  FloatRowsTest() { PutModel(config_, DataType::kF32, DataType::kF32, source_); }

  ModelLimits Limits(PrefillAttention prefill) const {
    ModelLimits limits;
    limits.max_tokens = kMaxTokens;
    limits.max_samples = 2;
    limits.prefill_attention = prefill;
    return limits;
  }
  PlanRow Row(int32_t slot, int64_t position, int64_t count) const {
    PlanRow row;
    row.slot = slot;
    row.position = position;
    row.sample = true;
    row.blocks = BlocksOfSlot(slot, position + count, config_.context_length);
    for (int64_t i = 0; i < count; ++i) {
      row.tokens.push_back(static_cast<int32_t>(((position + i) * 7 + slot * 31) % 50));
    }
    return row;
  }
  // Steps of kFew tokens, of more, of a chunk beside a decode, and of decodes alone: their logits.
  std::vector<float> Logits(Ops& ops, PrefillAttention prefill) const {
    ModelRunner runner(config_, source_, Limits(prefill), ops);
    std::vector<std::vector<PlanRow>> steps = {
        {Row(0, 0, kFew)},
        {Row(1, 0, kFew + 1)},
        {Row(1, kFew + 1, kFew - 1), Row(0, kFew, 1)},
        {Row(1, 2 * kFew, kFew), Row(0, kFew + 1, 1)},
        {Row(0, kFew + 2, 1), Row(1, 3 * kFew, 1)},
    };
    std::vector<float> logits;
    for (std::vector<PlanRow>& rows : steps) {
      StepPlan plan;
      plan.rows = std::move(rows);
      const StepBatch batch = runner.Forward(plan);
      const std::vector<float> some = ToVector(runner.Logits(batch.sample_tokens));
      logits.insert(logits.end(), some.begin(), some.end());
    }
    return logits;
  }

  const ModelConfig config_ = SmallConfig();
  MemorySource source_;
};

TEST_F(FloatRowsTest, AreReadWhereTheyAreAndChangeNoBit) {
  CpuOps plain(Pool());
  FloatOps ops(Pool());
  EXPECT_EQ(Logits(ops, PrefillAttention::kFlash), Logits(plain, PrefillAttention::kFlash));
  // Of each layer: the first, the third, for a chunk and a decode, and the last step; the second,
  // and the fourth, twice too.
  EXPECT_EQ(ops.apart, 3 * (1 + 2 + 1));
  EXPECT_EQ(ops.in_place, 3 * (1 + 2));
  EXPECT_EQ(ops.places(64), 2u);
  EXPECT_EQ(ops.places(80), 2u);
}

// Its product is in place, of whatever size; that of gate and up is not.
TEST_F(FloatRowsTest, PaddedAttentionHasNone) {
  CpuOps plain(Pool());
  FloatOps ops(Pool());
  EXPECT_EQ(Logits(ops, PrefillAttention::kPadded), Logits(plain, PrefillAttention::kPadded));
  EXPECT_EQ(ops.apart, 0);
  EXPECT_EQ(ops.places(64), 1u);
  EXPECT_EQ(ops.places(80), 2u);
}

TEST_F(FloatRowsTest, AreNoneUnlessABackendWantsThem) {
  FloatOps ops(Pool());
  ops.set_wants(false);
  Logits(ops, PrefillAttention::kFlash);
  EXPECT_EQ(ops.apart, 0);
  EXPECT_EQ(ops.places(64), 1u);
  EXPECT_EQ(ops.places(80), 1u);
}

}  // namespace
}  // namespace penstock
