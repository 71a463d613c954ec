// PaddedAttention: prefill attention by separate kernels over padded rows, with whole scores in
// memory. It is what fused attention is checked against, and gives its result up to rounding.
//
// It owns the workspace, made for one row of max_tokens tokens that sees context_length positions:
//   4 * (num_heads * max_tokens * context_length     the scores
//        + 2 * q size * context_length               keys and values, repeated for every head
//        + q size * max_tokens                       queries, then what they attended to
//        + max_tokens) + max_tokens * context_length offsets, mask
// bytes; shorter rows share it. Rows are taken in groups whose padded form fits: a batch of any
// shape runs, nothing is allocated after Make.
//
// A row's result depends on that row alone. Its bits do not depend on the other rows, on how it is
// cut into chunks of two tokens or more, on grouping or on threads: each kernel sums in an order
// that padding does not change (gemm_blocks.h, mask_scale_softmax.h). Rows of one token belong to
// decoder_attention, whose order is another: so a chunk of one, or a replay that feeds generated
// tokens as a prompt, gives the same up to rounding and not bit for bit, as the flash path does.
// One thread at a time.
#pragma once

#include "core/kernels/ops.h"
#include "core/model/model.h"
#include "core/model/model_limits.h"

namespace penstock {

class PaddedAttention {
 public:
  // Errors: INVALID_ARGUMENT if the workspace would exceed limits.padded_memory_bytes, with what to
  // change; the allocator's.
  static absl::StatusOr<PaddedAttention> Make(const ModelConfig& config, const ModelLimits& limits,
                                              BaseAllocator& allocator);
  // Bytes of the workspace; INT64_MAX if no number holds them.
  static int64_t WorkspaceBytes(const ModelConfig& config, const ModelLimits& limits);

  // The rows of the batch that feed several tokens; other rows are left alone. `layer` has the QKV
  // product of all those tokens, before bias and RoPE; their keys and values are appended to `kv`,
  // the layer's cache; `out` is [num_tokens, q].
  void Run(const StepBatch& batch, const BiasRopeArgs& layer, const Tensor& kv, const Tensor& out,
           Ops& ops) const;

 private:
  // Rows behind each other that are padded together.
  struct Group {
    int64_t rows = 0;
    int64_t tokens = 0;
    int64_t max_q = 0;
    int64_t max_k = 0;
  };
  Group NextGroup(const StepBatch& batch, int64_t first_row) const;

  HeadLayout heads_;
  int64_t window_ = 0;       // positions a token sees, 0: all before it
  int64_t max_tokens_ = 0;   // of a group, padded
  int64_t max_context_ = 0;  // positions of a group, padded
  Tensor offsets_;           // [max_tokens] i32
  Tensor mask_;              // [max_tokens * max_context] u8
  Tensor queries_;           // [max_tokens * q]
  Tensor keys_;              // [max_context * q]
  Tensor values_;            // [max_context * q]
  Tensor scores_;            // [num_heads * max_tokens * max_context]
};

}  // namespace penstock
