#include "core/kernels/decoder_attention.h"

#include <array>

#include "core/base/check.h"
#include "core/kernels/concat_kv.h"
#include "core/kernels/flash_attention.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void DecoderAttentionReference(ThreadPool& pool, const AttentionArgs& args) {
  const int64_t rows = args.context_lens.dim(0);
  const TensorWrapper<const int32_t> lens(args.context_lens);
  const TensorWrapper<const int32_t> tables(args.block_tables);
  const int64_t block_tokens = args.kv.dim(3);
  PENSTOCK_CHECK_EQ(args.qkv.dim(0), rows);

  std::array<int32_t, 2> starts = {0, 1};
  const Tensor one = Tensor::Borrow(starts.data(), DataType::kI32, {2});
  for (int64_t r = 0; r < rows; ++r) {
    if (lens[r] == 0) continue;
    const int64_t position = lens[r] - 1;
    int64_t slot = tables.row(r)[position / block_tokens] * block_tokens + position % block_tokens;
    const Tensor qkv = args.qkv.Slice(r, 1);
    ConcatKv(pool, qkv, Tensor::Borrow(&slot, DataType::kI64, {1}), args.heads, args.kv);
    FlashAttentionReference(
        pool, {qkv, one, args.context_lens.Slice(r, 1), args.block_tables.Slice(r, 1), args.heads,
               args.kv, args.out.Slice(r, 1), args.window});
  }
}

}  // namespace penstock::cpu
