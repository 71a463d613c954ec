// StepBatcher: turns a plan into the tensors that the kernels read, in memory made once for the
// largest plan, once CheckPlan has let it through. One thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/model/model.h"
#include "core/sched/step_plan.h"
#include "worker/plan_check.h"

namespace penstock {

class StepBatcher {
 public:
  // `allocator`: of the backend's inputs. Errors: the allocator's.
  static absl::StatusOr<StepBatcher> Make(const PlanLimits& limits, BaseAllocator& allocator);

  // Plans may name the first `num_blocks` KV blocks only, from now on.
  void LimitBlocks(int64_t num_blocks) { limits_.num_blocks = num_blocks; }
  // Batches that only decode are filled up with rows of padding to one of these sizes (those of
  // Backend::DecodeSizes, within the limits), and then have as many sample_tokens, from now on.
  void PadDecodes(std::vector<int64_t> sizes) { decode_sizes_ = std::move(sizes); }
  const std::vector<int64_t>& decode_sizes() const { return decode_sizes_; }

  // The batch of a plan, valid until the next call. `fed`, by row of the plan: what a row with
  // token_from feeds, kVoidToken if it is void. A void row keeps its place, so that every stage
  // runs the same batch, but feeds token 0 and is not sampled. Empty on a stage that does not know:
  // those rows feed token 0, and nobody looks. `from`, by row of the plan, or empty: the place in
  // the last step's samples of the token that the row feeds, -1 if it is known. Errors:
  // CheckPlan's.
  absl::StatusOr<StepBatch> Build(const StepPlan& plan, std::span<const int32_t> fed = {},
                                  std::span<const int32_t> from = {});
  // `from` by token of the last batch, for Backend::FeedTokens; empty if it was.
  const Tensor& token_from() const { return from_; }

  // Whether the last batch has such a size, and which parts of the tensors it uses. They borrow.
  bool is_padded() const { return is_padded_; }
  std::span<const Tensor> used() const { return used_; }

  // Where the first token of the plan's i-th row lies in the batch.
  int64_t first_token(size_t i) const { return first_tokens_[i]; }

  // The plan's rows in the order of the batch; those that sample, and the void ones, in that order.
  const std::vector<const PlanRow*>& rows() const { return rows_; }
  const std::vector<const PlanRow*>& sampled() const { return sampled_; }
  const std::vector<const PlanRow*>& voids() const { return voids_; }

  // Places in the batch of the tokens whose targets are asked for, in the order of the plan's rows
  // and targets: `count` of them from the first-th on. REQUIRES: inside num_targets(); count > 0.
  int64_t num_targets() const { return num_targets_; }
  Tensor target_tokens(int64_t first, int64_t count) const {
    return target_tokens_.Slice(first, count);
  }

 private:
  PlanLimits limits_;
  int64_t max_row_blocks_ = 0;
  Tensor token_ids_;      // [max_tokens] i32
  Tensor positions_;      // [max_tokens] i32
  Tensor kv_slots_;       // [max_tokens] i64
  Tensor token_from_;     // [max_tokens] i32
  Tensor from_;           // its part that the last batch uses
  Tensor row_starts_;     // [max_sequences + 1] i32
  Tensor context_lens_;   // [max_sequences] i32
  Tensor block_tables_;   // [max_sequences, max_row_blocks] i32
  Tensor sample_tokens_;  // [max_sequences] i32
  Tensor target_tokens_;  // [max_tokens] i32
  std::vector<int64_t> decode_sizes_;
  bool is_padded_ = false;
  std::vector<Tensor> used_;
  int64_t num_targets_ = 0;
  std::vector<RowExtent> extents_;
  std::vector<int64_t> first_tokens_;  // in the batch, by row of the plan
  std::vector<const PlanRow*> rows_;
  std::vector<const PlanRow*> sampled_;
  std::vector<const PlanRow*> voids_;
};

}  // namespace penstock
