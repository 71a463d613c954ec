#include "core/kernels/decoder_attention.h"

#include <numeric>
#include <vector>

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

  std::vector<int64_t> slots(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t position = lens[r] - 1;
    slots[static_cast<size_t>(r)] =
        tables.row(r)[position / block_tokens] * block_tokens + position % block_tokens;
  }
  ConcatKv(pool, args.qkv, Tensor::Borrow(slots.data(), DataType::kI64, {rows}), args.heads,
           args.kv);

  std::vector<int32_t> starts(static_cast<size_t>(rows) + 1);
  std::iota(starts.begin(), starts.end(), 0);
  const Tensor one_each = Tensor::Borrow(starts.data(), DataType::kI32, {rows + 1});
  FlashAttentionReference(pool, {args.qkv, one_each, args.context_lens, args.block_tables,
                                 args.heads, args.kv, args.out, args.window});
}

}  // namespace penstock::cpu
