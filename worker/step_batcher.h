// StepBatcher: turns a plan into the tensors that the kernels read, in memory made once for the
// largest plan. It checks every number of the plan first: nothing from the wire becomes an index
// unchecked. One thread at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "core/model/model.h"
#include "core/sched/step_plan.h"

namespace penstock {

// What bounds a plan.
struct PlanLimits {
  int64_t max_tokens = 0;      // of one plan
  int64_t max_sequences = 0;   // rows of one plan; also slots
  int64_t context_length = 0;  // positions
  int64_t num_blocks = 0;
  int64_t vocab_size = 0;
};

class StepBatcher {
 public:
  // Errors: the allocator's.
  static absl::StatusOr<StepBatcher> Make(const PlanLimits& limits, BaseAllocator& allocator);

  // The batch of a plan, valid until the next call. Errors: FAILED_PRECONDITION with the row and
  // what is wrong with it.
  absl::StatusOr<StepBatch> Build(const StepPlan& plan);

  // The plan's rows in the order of the batch; those that sample, in that order.
  const std::vector<const PlanRow*>& rows() const { return rows_; }
  const std::vector<const PlanRow*>& sampled() const { return sampled_; }

 private:
  absl::Status Check(const PlanRow& row) const;

  PlanLimits limits_;
  int64_t max_row_blocks_ = 0;
  Tensor token_ids_;      // [max_tokens] i32
  Tensor positions_;      // [max_tokens] i32
  Tensor kv_slots_;       // [max_tokens] i64
  Tensor row_starts_;     // [max_sequences + 1] i32
  Tensor context_lens_;   // [max_sequences] i32
  Tensor block_tables_;   // [max_sequences, max_row_blocks] i32
  Tensor sample_tokens_;  // [max_sequences] i32
  std::vector<RowExtent> extents_;
  std::vector<const PlanRow*> rows_;
  std::vector<const PlanRow*> sampled_;
};

}  // namespace penstock
