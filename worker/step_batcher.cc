#include "worker/step_batcher.h"

#include <algorithm>

#include "core/base/kv_block.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock {

absl::StatusOr<StepBatcher> StepBatcher::Make(const PlanLimits& limits, BaseAllocator& allocator) {
  StepBatcher batcher;
  batcher.limits_ = limits;
  batcher.max_row_blocks_ = BlocksFor(limits.context_length);
  const int64_t tokens = limits.max_tokens;
  const int64_t rows = limits.max_sequences;
  // What every step uses stands together, the longest last.
  PENSTOCK_RETURN_IF_ERROR(
      MakeTogether({{&batcher.row_starts_, DataType::kI32, {rows + 1}},
                    {&batcher.context_lens_, DataType::kI32, {rows}},
                    {&batcher.sample_tokens_, DataType::kI32, {rows}},
                    {&batcher.block_tables_, DataType::kI32, {rows, batcher.max_row_blocks_}},
                    {&batcher.token_ids_, DataType::kI32, {tokens}},
                    {&batcher.positions_, DataType::kI32, {tokens}},
                    {&batcher.kv_slots_, DataType::kI64, {tokens}},
                    {&batcher.token_from_, DataType::kI32, {tokens}},
                    {&batcher.target_tokens_, DataType::kI32, {tokens}}},
                   allocator));
  batcher.extents_.reserve(static_cast<size_t>(rows));
  batcher.first_tokens_.reserve(static_cast<size_t>(rows));
  return batcher;
}

absl::StatusOr<StepBatch> StepBatcher::Build(const StepPlan& plan, std::span<const int32_t> fed,
                                             std::span<const int32_t> from) {
  PENSTOCK_RETURN_IF_ERROR(CheckPlan(plan, limits_));
  const auto num_rows = static_cast<int64_t>(plan.rows.size());
  rows_.clear();
  sampled_.clear();
  voids_.clear();
  extents_.clear();
  first_tokens_.assign(plan.rows.size(), 0);
  for (const PlanRow& row : plan.rows) rows_.push_back(&row);
  const auto decodes = std::stable_partition(
      rows_.begin(), rows_.end(), [](const PlanRow* row) { return row->tokens.size() > 1; });

  StepBatch batch;
  batch.num_prefill_rows = decodes - rows_.begin();
  const TensorWrapper<int32_t> ids(token_ids_);
  const TensorWrapper<int32_t> positions(positions_);
  const TensorWrapper<int64_t> slots(kv_slots_);
  const TensorWrapper<int32_t> froms(token_from_);
  const TensorWrapper<int32_t> starts(row_starts_);
  const TensorWrapper<int32_t> lens(context_lens_);
  const TensorWrapper<int32_t> tables(block_tables_);
  const TensorWrapper<int32_t> samples(sample_tokens_);
  int64_t token = 0;
  size_t table_width = 1;
  for (int64_t r = 0; r < num_rows; ++r) {
    const PlanRow& row = *rows_[static_cast<size_t>(r)];
    if (r == batch.num_prefill_rows) batch.num_prefill_tokens = token;
    starts[r] = static_cast<int32_t>(token);
    const auto place = static_cast<size_t>(&row - plan.rows.data());
    first_tokens_[place] = token;
    const int32_t from_mailbox = row.token_from == 0 || fed.empty() ? 0 : fed[place];
    const bool is_void = from_mailbox == kVoidToken;
    if (is_void) voids_.push_back(&row);
    const auto used = std::min<size_t>(row.blocks.size(), static_cast<size_t>(max_row_blocks_));
    std::copy_n(row.blocks.begin(), used, tables.row(r));
    table_width = std::max(table_width, used);
    for (size_t i = 0; i < row.tokens.size(); ++i, ++token) {
      const int64_t position = row.position + static_cast<int64_t>(i);
      ids[token] = row.token_from == 0 ? row.tokens[i] : std::max(from_mailbox, 0);
      froms[token] = from.empty() ? -1 : from[place];
      positions[token] = static_cast<int32_t>(position);
      slots[token] = row.blocks[static_cast<size_t>(position / kBlockSize)] * kBlockSize +
                     position % kBlockSize;
    }
    const auto count = static_cast<int64_t>(row.tokens.size());
    extents_.push_back({count, row.position + count});
    lens[r] = static_cast<int32_t>(row.position + count);
    if (row.sample && !is_void) {
      samples[static_cast<int64_t>(sampled_.size())] = static_cast<int32_t>(token - 1);
      sampled_.push_back(&row);
    }
  }
  if (decodes == rows_.end()) batch.num_prefill_tokens = token;
  auto num_samples = static_cast<int64_t>(sampled_.size());
  is_padded_ =
      batch.num_prefill_rows == 0 && !decode_sizes_.empty() && num_rows <= decode_sizes_.back();
  const int64_t size = is_padded_
                           ? *std::lower_bound(decode_sizes_.begin(), decode_sizes_.end(), num_rows)
                           : num_rows;
  for (int64_t r = num_rows; r < size; ++r, ++token) {
    ids[token] = 0;
    froms[token] = -1;
    positions[token] = 0;
    slots[token] = 0;
    starts[r] = static_cast<int32_t>(token);
    lens[r] = 0;
    extents_.push_back({1, 0});
  }
  starts[size] = static_cast<int32_t>(token);
  if (is_padded_) {
    for (; num_samples < size; ++num_samples) samples[num_samples] = 0;
  }

  const TensorWrapper<int32_t> targets(target_tokens_);
  num_targets_ = 0;
  for (size_t r = 0; r < plan.rows.size(); ++r) {
    for (size_t i = 0; i < plan.rows[r].targets.size(); ++i) {
      targets[num_targets_++] = static_cast<int32_t>(first_tokens_[r] + static_cast<int64_t>(i));
    }
  }

  batch.token_ids = token_ids_.Slice(0, token);
  batch.positions = positions_.Slice(0, token);
  batch.kv_slots = kv_slots_.Slice(0, token);
  batch.extents = extents_;
  batch.row_starts = row_starts_.Slice(0, size + 1);
  batch.context_lens = context_lens_.Slice(0, size);
  batch.block_tables = block_tables_.Slice(0, size);
  if (num_samples > 0) batch.sample_tokens = sample_tokens_.Slice(0, num_samples);

  used_ = {batch.row_starts, batch.context_lens,
           batch.token_ids,  batch.positions,
           batch.kv_slots,   batch.block_tables.Columns(0, static_cast<int64_t>(table_width))};
  if (num_samples > 0) used_.push_back(batch.sample_tokens);
  from_ = from.empty() ? Tensor() : token_from_.Slice(0, token);
  if (!from_.empty()) used_.push_back(from_);
  if (num_targets_ > 0) used_.push_back(target_tokens_.Slice(0, num_targets_));
  return batch;
}

}  // namespace penstock
