#include "worker/step_batcher.h"

#include <algorithm>

#include "core/base/kv_block.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock {
namespace {

absl::Status Refuse(const PlanRow& row, const std::string& what) {
  return absl::FailedPreconditionError(
      absl::StrCat("the plan's row of slot ", row.slot, " at position ", row.position, " ", what));
}

}  // namespace

absl::StatusOr<StepBatcher> StepBatcher::Make(const PlanLimits& limits, BaseAllocator& allocator) {
  StepBatcher batcher;
  batcher.limits_ = limits;
  batcher.max_row_blocks_ = BlocksFor(limits.context_length);
  const auto make = [&](Tensor& tensor, DataType type, const Shape& shape) -> absl::Status {
    PENSTOCK_ASSIGN_OR_RETURN(tensor, Tensor::Make(type, shape, allocator));
    return absl::OkStatus();
  };
  const int64_t tokens = limits.max_tokens;
  const int64_t rows = limits.max_sequences;
  PENSTOCK_RETURN_IF_ERROR(make(batcher.token_ids_, DataType::kI32, {tokens}));
  PENSTOCK_RETURN_IF_ERROR(make(batcher.positions_, DataType::kI32, {tokens}));
  PENSTOCK_RETURN_IF_ERROR(make(batcher.kv_slots_, DataType::kI64, {tokens}));
  PENSTOCK_RETURN_IF_ERROR(make(batcher.row_starts_, DataType::kI32, {rows + 1}));
  PENSTOCK_RETURN_IF_ERROR(make(batcher.context_lens_, DataType::kI32, {rows}));
  PENSTOCK_RETURN_IF_ERROR(
      make(batcher.block_tables_, DataType::kI32, {rows, batcher.max_row_blocks_}));
  PENSTOCK_RETURN_IF_ERROR(make(batcher.sample_tokens_, DataType::kI32, {rows}));
  batcher.extents_.reserve(static_cast<size_t>(rows));
  return batcher;
}

absl::Status StepBatcher::Check(const PlanRow& row) const {
  const auto count = static_cast<int64_t>(row.tokens.size());
  if (count == 0) return Refuse(row, "feeds no token");
  if (row.position < 0 || row.position > limits_.context_length - count) {
    return Refuse(row, absl::StrCat("feeds ", count, " tokens beyond the context of ",
                                    limits_.context_length));
  }
  const int64_t need = BlocksFor(row.position + count);
  if (static_cast<int64_t>(row.blocks.size()) < need) {
    return Refuse(row, absl::StrCat("has ", row.blocks.size(), " KV blocks but needs ", need));
  }
  for (int32_t block : row.blocks) {
    if (block < 0 || block >= limits_.num_blocks) {
      return Refuse(row, absl::StrCat("names KV block ", block, " of ", limits_.num_blocks));
    }
  }
  for (int32_t token : row.tokens) {
    if (token < 0 || token >= limits_.vocab_size) {
      return Refuse(
          row, absl::StrCat("feeds token ", token, " of a vocabulary of ", limits_.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StepBatch> StepBatcher::Build(const StepPlan& plan) {
  const auto num_rows = static_cast<int64_t>(plan.rows.size());
  if (num_rows == 0 || num_rows > limits_.max_sequences) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the plan has ", num_rows, " rows; this stage takes 1 to ", limits_.max_sequences));
  }
  for (const PlanRow& row : plan.rows) PENSTOCK_RETURN_IF_ERROR(Check(row));
  const int64_t num_tokens = plan.num_tokens();
  if (num_tokens > limits_.max_tokens) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the plan has ", num_tokens, " tokens; this stage takes ", limits_.max_tokens));
  }

  rows_.clear();
  sampled_.clear();
  extents_.clear();
  for (const PlanRow& row : plan.rows) rows_.push_back(&row);
  const auto decodes = std::stable_partition(
      rows_.begin(), rows_.end(), [](const PlanRow* row) { return row->tokens.size() > 1; });

  StepBatch batch;
  batch.num_prefill_rows = decodes - rows_.begin();
  const TensorWrapper<int32_t> ids(token_ids_);
  const TensorWrapper<int32_t> positions(positions_);
  const TensorWrapper<int64_t> slots(kv_slots_);
  const TensorWrapper<int32_t> starts(row_starts_);
  const TensorWrapper<int32_t> lens(context_lens_);
  const TensorWrapper<int32_t> tables(block_tables_);
  const TensorWrapper<int32_t> samples(sample_tokens_);
  int64_t token = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    const PlanRow& row = *rows_[static_cast<size_t>(r)];
    if (r == batch.num_prefill_rows) batch.num_prefill_tokens = token;
    starts[r] = static_cast<int32_t>(token);
    const auto used = std::min<size_t>(row.blocks.size(), static_cast<size_t>(max_row_blocks_));
    std::copy_n(row.blocks.begin(), used, tables.row(r));
    for (size_t i = 0; i < row.tokens.size(); ++i, ++token) {
      const int64_t position = row.position + static_cast<int64_t>(i);
      ids[token] = row.tokens[i];
      positions[token] = static_cast<int32_t>(position);
      slots[token] = row.blocks[static_cast<size_t>(position / kBlockSize)] * kBlockSize +
                     position % kBlockSize;
    }
    const auto count = static_cast<int64_t>(row.tokens.size());
    extents_.push_back({count, row.position + count});
    lens[r] = static_cast<int32_t>(row.position + count);
    if (row.sample) {
      samples[static_cast<int64_t>(sampled_.size())] = static_cast<int32_t>(token - 1);
      sampled_.push_back(&row);
    }
  }
  if (decodes == rows_.end()) batch.num_prefill_tokens = token;
  starts[num_rows] = static_cast<int32_t>(token);

  batch.token_ids = token_ids_.Slice(0, num_tokens);
  batch.positions = positions_.Slice(0, num_tokens);
  batch.kv_slots = kv_slots_.Slice(0, num_tokens);
  batch.extents = extents_;
  batch.row_starts = row_starts_.Slice(0, num_rows + 1);
  batch.context_lens = context_lens_.Slice(0, num_rows);
  batch.block_tables = block_tables_.Slice(0, num_rows);
  if (!sampled_.empty()) {
    batch.sample_tokens = sample_tokens_.Slice(0, static_cast<int64_t>(sampled_.size()));
  }
  return batch;
}

}  // namespace penstock
