#include "core/model/llama/padded_attention.h"

#include <algorithm>
#include <cmath>

#include "core/base/check.h"
#include "core/base/checked_size.h"

namespace penstock {
namespace {

// The first elements of a workspace tensor in the shape of this group.
Tensor View(const Tensor& workspace, const Shape& shape) {
  PENSTOCK_CHECK_LE(shape.num_elements(), workspace.num_elements());
  return workspace.Slice(0, shape.num_elements()).Reshape(shape);
}

// A row feeds no more tokens than it has positions.
int64_t MaxTokens(const ModelConfig& config, const ModelLimits& limits) {
  return std::min(limits.max_tokens, config.context_length);
}

}  // namespace

int64_t PaddedAttention::WorkspaceBytes(const ModelConfig& config, const ModelLimits& limits) {
  const CheckedSize tokens = MaxTokens(config, limits);
  const CheckedSize context = config.context_length;
  const CheckedSize scores = CheckedProduct({config.num_heads, tokens, context});
  const CheckedSize rows = CheckedSize(config.q_size()) * (tokens + context + context);
  const CheckedSize words = scores + rows + tokens;
  return (words * CheckedSize(4) + tokens * context).value().value_or(INT64_MAX);
}

absl::StatusOr<PaddedAttention> PaddedAttention::Make(const ModelConfig& config,
                                                      const ModelLimits& limits,
                                                      BaseAllocator& allocator) {
  const int64_t bytes = WorkspaceBytes(config, limits);
  if (bytes > limits.padded_memory_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--prefill-attention=padded needs ", bytes, " bytes for steps of ",
        MaxTokens(config, limits), " tokens over a context of ", config.context_length,
        ", but may take ", limits.padded_memory_bytes,
        ": raise --padded-memory-mib, lower --max-step-tokens, or use --prefill-attention=flash"));
  }
  PaddedAttention attention;
  attention.heads_ = {config.num_heads, config.num_kv_heads, config.head_dim};
  attention.window_ = config.sliding_window;
  attention.max_tokens_ = MaxTokens(config, limits);
  attention.max_context_ = config.context_length;
  const int64_t tokens = attention.max_tokens_;
  const int64_t context = attention.max_context_;
  const auto make = [&](Tensor& tensor, DataType type, int64_t elements) -> absl::Status {
    PENSTOCK_ASSIGN_OR_RETURN(tensor, Tensor::Make(type, {elements}, allocator));
    return absl::OkStatus();
  };
  PENSTOCK_RETURN_IF_ERROR(make(attention.offsets_, DataType::kI32, tokens));
  PENSTOCK_RETURN_IF_ERROR(make(attention.mask_, DataType::kU8, tokens * context));
  PENSTOCK_RETURN_IF_ERROR(make(attention.queries_, limits.precision, tokens * config.q_size()));
  PENSTOCK_RETURN_IF_ERROR(make(attention.keys_, limits.precision, context * config.q_size()));
  PENSTOCK_RETURN_IF_ERROR(make(attention.values_, limits.precision, context * config.q_size()));
  PENSTOCK_RETURN_IF_ERROR(
      make(attention.scores_, limits.precision, config.num_heads * tokens * context));
  return attention;
}

// As many rows as fit. One row always does, so the scores, rows * max_q * max_k a head, fit too.
PaddedAttention::Group PaddedAttention::NextGroup(const StepBatch& batch, int64_t first_row) const {
  Group group;
  for (int64_t r = first_row; r < batch.num_prefill_rows; ++r) {
    const RowExtent& row = batch.extents[static_cast<size_t>(r)];
    const int64_t max_q = std::max(group.max_q, row.tokens);
    const int64_t max_k = std::max(group.max_k, row.context);
    const int64_t rows = group.rows + 1;
    if (rows > 1 && (rows * max_q > max_tokens_ || rows * max_k > max_context_)) break;
    group = {rows, group.tokens + row.tokens, max_q, max_k};
  }
  return group;
}

void PaddedAttention::Run(const StepBatch& batch, const BiasRopeArgs& layer, const Tensor& kv,
                          const Tensor& out, Ops& ops) const {
  const float scale = 1.0f / std::sqrt(static_cast<float>(heads_.head_dim));
  int64_t token = 0;
  for (int64_t row = 0; row < batch.num_prefill_rows;) {
    const Group group = NextGroup(batch, row);
    const int64_t rows = group.rows;
    const Tensor starts = batch.row_starts.Slice(row, rows + 1);
    const Tensor lens = batch.context_lens.Slice(row, rows);
    const Tensor tables = batch.block_tables.Slice(row, rows);
    const Tensor slots = batch.kv_slots.Slice(token, group.tokens);
    const Tensor qkv = layer.qkv.Slice(token, group.tokens);
    const Tensor rope = layer.rope_table.Slice(token, group.tokens);
    const Tensor offsets = offsets_.Slice(0, group.tokens);
    const Tensor mask = View(mask_, {rows, group.max_q, group.max_k});
    const Shape q_shape({rows, heads_.num_heads, group.max_q, heads_.head_dim});
    const Shape kv_shape({rows, heads_.num_heads, group.max_k, heads_.head_dim});
    const Tensor queries = View(queries_, q_shape);
    const Tensor keys = View(keys_, kv_shape);
    const Tensor values = View(values_, kv_shape);
    const Tensor scores = View(scores_, {rows, heads_.num_heads, group.max_q, group.max_k});

    // Offsets and mask are the same for every layer and made again in each: a mask is 1 / (4 *
    // num_heads) of the scores, and those of all groups at once would have no bound.
    ops.PaddingOffset(starts, group.max_q, offsets);
    ops.CausalMask(starts, lens, window_, mask);
    ops.BiasRopePadded({qkv, layer.bias, layer.q_gain, layer.k_gain, layer.eps, rope, heads_},
                       starts, queries);
    ops.ConcatKv(qkv, slots, heads_, kv);
    ops.RepeatKv(kv, tables, lens, heads_, keys, values);
    ops.BatchedGemm(queries, keys, true, 1.0f, scores);  // Q K^T
    ops.MaskScaleSoftmax(scores, mask, scale);
    ops.BatchedGemm(scores, values, false, 1.0f, queries);  // the queries have been read
    ops.RemovePadding(queries, offsets, out.Slice(token, group.tokens));
    row += rows;
    token += group.tokens;
  }
}

}  // namespace penstock
