// Stage: one worker's part of the pipeline. It owns the weights of its layers and the KV bytes of
// its blocks, and executes plans in number order.
// Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/model/model_config.h"
#include "core/model/model_limits.h"
#include "core/sched/step_plan.h"

namespace penstock {

// What a stage is told before it loads. All limits are settings of the front end.
struct StageOptions {
  std::string model;              // path of the model file
  int64_t kv_memory_bytes = 0;    // for the KV blocks of this stage's layers
  int64_t max_step_tokens = 512;  // tokens of one plan
  int64_t max_sequences = 64;     // slots; also rows sampled in one plan
  int threads = 0;                // 0: one a core
  PrefillAttention prefill_attention = PrefillAttention::kFlash;
  int64_t padded_memory_bytes = int64_t{2} << 30;  // of workspace, if prefill attention is padded
};

// What a stage says once it is ready.
struct StageInfo {
  ModelConfig config;
  int64_t num_blocks = 0;  // KV blocks of kBlockSize tokens
  int64_t weight_bytes = 0;
  int64_t load_ns = 0;
};

// The interface that the coordinator's links drive; tests put a fake behind it.
class StageExecutor {
 public:
  virtual ~StageExecutor() = default;
  virtual absl::StatusOr<StageInfo> Load(const StageOptions& options) = 0;
  // Errors: FAILED_PRECONDITION for a plan that this stage cannot run (before Load, wrong
  // generation, a block or position out of range): the epoch ends.
  virtual absl::StatusOr<StepResult> Execute(const StepPlan& plan) = 0;
};

// The real one, on the CPU backend.
std::unique_ptr<StageExecutor> MakeCpuStage();

}  // namespace penstock
