// Model: the forward pass of one stage over a batch of sequences. What a family implements.
// Nothing is allocated in Forward; its workspace is made with the model. One thread at a time.
#pragma once

#include <cstdint>
#include <span>

#include "core/model/kv_cache.h"
#include "core/tensor/tensor.h"

namespace penstock {

// How much a row feeds and sees.
struct RowExtent {
  int64_t tokens = 0;
  int64_t context = 0;  // positions that exist once the step is done
};

// One step as the kernels want it: the tokens of all rows behind each other, rows that feed more
// than one token first.
struct StepBatch {
  Tensor token_ids;              // [num_tokens] i32
  Tensor positions;              // [num_tokens] i32
  Tensor kv_slots;               // [num_tokens] i64: KV block * kBlockSize + place in it
  Tensor row_starts;             // [num_rows + 1] i32: tokens of row r
  Tensor context_lens;           // [num_rows] i32: positions that exist once the step is done;
                                 // 0: the row is padding, which a step that only decodes may have
  Tensor block_tables;           // [num_rows, max_blocks] i32
  Tensor sample_tokens;          // [num_samples] i32: tokens whose logits are wanted; may be empty
  int64_t num_prefill_rows = 0;  // the rest feed one token each
  int64_t num_prefill_tokens = 0;
  // [num_rows], on the host: shapes can depend on them.
  std::span<const RowExtent> extents;

  int64_t num_tokens() const { return token_ids.dim(0); }
  int64_t num_rows() const { return context_lens.dim(0); }
};

class Model {
 public:
  virtual ~Model() = default;

  // Runs the batch through the stage's layers and fills their keys and values into the cache.
  virtual void Forward(const StepBatch& batch, const KvCache& cache) = 0;

  // What crosses from stage to stage: the residual stream [num_tokens, hidden] f32 of a batch,
  // after one layer's FFN has been added to it and before the next layer's norm. Of all stages but
  // the first it has to be here before Forward; of all but the last it is here after it. Memory of
  // the model, the same at each call. REQUIRES: num_tokens <= the limits' max_tokens.
  virtual Tensor Residual(int64_t num_tokens) = 0;

  // The logits [n, vocab] f32 that follow `tokens` [n] i32, which are places in the last batch
  // (as StepBatch::sample_tokens are). They stay valid until the next call.
  // REQUIRES: the last layer is the stage's; 1 <= n <= the limits' max_samples; Forward has run.
  virtual Tensor Logits(const Tensor& tokens) = 0;
  // Where the last Logits() left the first n rows of its result.
  virtual Tensor LogitRows(int64_t n) = 0;

  virtual int64_t weight_bytes() const = 0;
};

}  // namespace penstock
