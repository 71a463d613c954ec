// A model of its own with all that a step needs, for tests that look at logits: what a stage does,
// without a sampler and over any Ops.
#pragma once

#include <memory>
#include <vector>

#include "core/model/model_registry.h"
#include "tests/support/tensors.h"
#include "worker/step_batcher.h"

namespace penstock::testing {

class ModelRunner {
 public:
  // Room for limits.max_samples rows, each over a whole context. `ops` must outlive it.
  ModelRunner(const ModelConfig& config, const WeightSource& source, const ModelLimits& limits,
              Ops& ops) {
    const int64_t rows = limits.max_samples;
    const int64_t blocks = rows * BlocksFor(config.context_length);
    auto model = MakeModel(config, {0, config.num_layers}, source, limits, ops, allocator);
    PENSTOCK_CHECK(model.ok());
    model_ = *std::move(model);
    auto cache = KvCache::Make(config, config.num_layers, blocks, Allocator());
    PENSTOCK_CHECK(cache.ok());
    cache_ = *std::move(cache);
    auto batcher = StepBatcher::Make(
        {limits.max_tokens, rows, config.context_length, blocks, config.vocab_size}, Allocator());
    PENSTOCK_CHECK(batcher.ok());
    batcher_ = *std::move(batcher);
  }

  // Runs a plan that is within the limits.
  StepBatch Forward(const StepPlan& plan) {
    absl::StatusOr<StepBatch> batch = batcher_.Build(plan);
    PENSTOCK_CHECK(batch.ok());
    model_->Forward(*batch, cache_);
    return *batch;
  }

  // [n, vocab] of places in the last batch; valid until the next call.
  Tensor Logits(const Tensor& tokens) { return model_->Logits(tokens); }
  // The last plan's rows that sample, in the order of the batch's sample_tokens.
  const std::vector<const PlanRow*>& sampled() const { return batcher_.sampled(); }

  HostAllocator allocator;  // the model's

 private:
  std::unique_ptr<Model> model_;
  KvCache cache_;
  StepBatcher batcher_;
};

// The KV blocks of slot `slot` for `positions` positions of at most `context`: no two slots share
// one, and they do not lie in order.
inline std::vector<int32_t> BlocksOfSlot(int32_t slot, int64_t positions, int64_t context) {
  const auto each = static_cast<int32_t>(BlocksFor(context));
  std::vector<int32_t> blocks;
  for (int32_t b = 0; b < BlocksFor(positions); ++b) blocks.push_back((slot + 1) * each - 1 - b);
  return blocks;
}

}  // namespace penstock::testing
