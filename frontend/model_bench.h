// The steps that `penstock bench model` times, over a stage that has loaded the whole model, and
// what each of them costs at least. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/device_ceilings.h"
#include "core/model/model_config.h"
#include "worker/stage.h"

namespace penstock {

// One step: of `batch` sequences that feed one token each, the last of `tokens`; or of so many
// whole prompts of that length.
struct StepCase {
  bool is_prefill = false;
  int64_t batch = 1;
  int64_t tokens = 1;

  // "8x1024"; "prefill:1x2048". Errors: INVALID_ARGUMENT.
  static absl::StatusOr<StepCase> Parse(std::string_view text);
  std::string Name() const;
};

// What a step reads and computes, at least.
struct StepCost {
  double weight_bytes = 0;
  double kv_bytes = 0;         // read by decodes, written by prompts
  double linear_flops = 0;     // of the weights; of the LM head for sampled tokens only
  double attention_flops = 0;  // causal: what is seen, once

  double bytes() const { return weight_bytes + kv_bytes; }
  double flops() const { return linear_flops + attention_flops; }
  // Linear layers and attention one after the other, each as long as its bytes or its flops take,
  // whichever is more. 0 where the ceilings do not say.
  double FloorSeconds(const StepCase& step, const DeviceCeilings& ceilings) const;
};

// `weight_bytes`: all that a step reads of the weights; `token_kv_bytes`: of one position.
StepCost CostOf(const StepCase& step, const ModelConfig& config, int64_t weight_bytes,
                int64_t token_kv_bytes);

// What the stage must be told, so that each of the cases fits.
struct BenchRoom {
  int64_t max_sequences = 1;
  int64_t max_step_tokens = 1;
  int64_t num_blocks = 1;
};
BenchRoom RoomFor(const std::vector<StepCase>& cases);

struct StepTimes {
  double median_seconds = 0;
  double p90_seconds = 0;
  int64_t steps = 0;
};

class ModelBench {
 public:
  // `tolerance`: by how much, in nats, two log-probabilities of one token may differ when they were
  // computed by a prompt's step and by a decode's.
  ModelBench(StageExecutor& stage, int64_t vocab_size, int64_t max_step_tokens, double tolerance)
      : stage_(stage),
        vocab_size_(vocab_size),
        max_step_tokens_(max_step_tokens),
        tolerance_(tolerance) {}

  // Checks, warms up and times `steps` of them by the host's clock, from plan to result; decodes
  // from result to result where the stage runs ahead, as it does for a server.
  // REQUIRES: the stage has the case's room. Errors: the stage's; DATA_LOSS if the results are
  // wrong: the last token of each sequence fed alone must give what the whole prompt gave (the
  // token, or one as likely within the tolerance), and the same step the same tokens each time.
  absl::StatusOr<StepTimes> Run(const StepCase& step, int64_t steps);

 private:
  // New sequences in all slots of the case, from the next plan on.
  void Admit(const StepCase& step, int32_t logprobs, StepPlan* plan);
  PlanRow Row(const StepCase& step, int64_t slot, int64_t first, int64_t count) const;
  absl::StatusOr<std::vector<SampledToken>> Execute(StepPlan plan);
  // All prompts in as many steps as they need; by slot, what follows each.
  absl::StatusOr<std::vector<SampledToken>> FeedPrompts(const StepCase& step, int32_t logprobs);
  // The last token of each sequence, whose others have been fed.
  StepPlan DecodePlan(const StepCase& step) const;
  StepPlan PromptPlan(const StepCase& step);
  StepPlan NextPlan(const StepCase& step);
  absl::Status Compare(const SampledToken& prompt, const SampledToken& decode) const;
  absl::Status Check(const StepCase& step);

  StageExecutor& stage_;
  const int64_t vocab_size_;
  const int64_t max_step_tokens_;
  const double tolerance_;
  uint64_t number_ = 0;      // of the last plan
  uint32_t generation_ = 0;  // of all slots
};

}  // namespace penstock
