// A stage over any Ops, with the likeliest token as its only way of sampling: for tests that put
// kernels of their own behind a whole stage.
#pragma once

#include "tests/support/model_runner.h"
#include "worker/stage.h"

namespace penstock::testing {

class ModelStage final : public StageExecutor {
 public:
  ModelStage(const ModelConfig& config, const WeightSource& source, const ModelLimits& limits,
             Ops& ops)
      : runner_(config, source, limits, ops) {}

  absl::StatusOr<StageInfo> Load(const StageOptions&, const ProgressCallback&) override {
    return absl::FailedPreconditionError("this stage has loaded a model already");
  }

  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override {
    const StepBatch batch = runner_.Forward(plan);
    StepResult result;
    result.number = plan.number;
    if (runner_.sampled().empty()) return result;
    const Tensor logits = runner_.Logits(batch.sample_tokens);
    for (size_t i = 0; i < runner_.sampled().size(); ++i) {
      const PlanRow& row = *runner_.sampled()[i];
      const std::vector<float> values = ToVector(logits.Slice(static_cast<int64_t>(i), 1));
      const auto best = std::max_element(values.begin(), values.end());
      double total = 0;
      for (float value : values) total += std::exp(double{value} - *best);
      SampledToken sample;
      sample.slot = row.slot;
      sample.generation = row.generation;
      sample.position = row.position + static_cast<int64_t>(row.tokens.size());
      sample.token = static_cast<int32_t>(best - values.begin());
      sample.logprob = static_cast<float>(-std::log(total));
      result.samples.push_back(std::move(sample));
    }
    return result;
  }

 private:
  ModelRunner runner_;
};

}  // namespace penstock::testing
