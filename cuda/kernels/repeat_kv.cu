#include "core/base/kv_block.h"
#include "core/kernels/repeat_kv.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

struct RepeatKvShape {
  int64_t num_blocks;
  int64_t table_width;  // KV blocks a row
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_dim;
  int64_t max_k;
};

// A block copies one page of one query head: x the page of the row, y the head (K's, then V's),
// z the row. Heads that share a KV head follow each other, so that level 2 serves all but one.
template <typename T, int N>
__global__ void RepeatKvKernel(const T* kv, const int32_t* block_tables,
                               const int32_t* context_lens, RepeatKvShape shape, T* keys,
                               T* values) {
  LetNextBegin();
  WaitForInputs();
  const int64_t row = blockIdx.z;
  const int64_t which = blockIdx.y / shape.num_heads;
  const int64_t head = blockIdx.y % shape.num_heads;
  const int64_t context = context_lens[row];
  DeviceCheck(context <= shape.max_k && context <= shape.table_width * kBlockSize);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockSize;
  const int64_t places = min(shape.max_k - first, kBlockSize);
  const int64_t real = max(min(context - first, places), int64_t{0});
  int64_t block = 0;
  if (real > 0) {
    block = block_tables[row * shape.table_width + blockIdx.x];
    DeviceCheck(block >= 0 && block < shape.num_blocks);
  }
  const int64_t kv_head = head / (shape.num_heads / shape.num_kv_heads);
  const int64_t packs = shape.head_dim / N;
  const auto* from = reinterpret_cast<const Pack<T, N>*>(kv) +
                     ((block * 2 + which) * shape.num_kv_heads + kv_head) * kBlockSize * packs;
  auto* to = reinterpret_cast<Pack<T, N>*>(which == 0 ? keys : values) +
             ((row * shape.num_heads + head) * shape.max_k + first) * packs;
  for (int64_t at = threadIdx.x; at < places * packs; at += blockDim.x) {
    Pack<T, N> value = {};
    if (at < real * packs) value = from[at];
    to[at] = value;
  }
}

}  // namespace

void LaunchRepeatKv(cudaStream_t stream, const Tensor& kv, const Tensor& block_tables,
                    const Tensor& context_lens, const HeadLayout& heads, const Tensor& keys,
                    const Tensor& values) {
  const int64_t rows = keys.dim(0);
  const int64_t max_k = keys.dim(2);
  PENSTOCK_CHECK(keys.shape() == Shape({rows, heads.num_heads, max_k, heads.head_dim}));
  PENSTOCK_CHECK(values.shape() == keys.shape());
  PENSTOCK_CHECK_EQ(context_lens.dim(0), rows);
  PENSTOCK_CHECK_EQ(block_tables.dim(0), rows);
  PENSTOCK_CHECK_EQ(kv.dim(2), heads.num_kv_heads);
  PENSTOCK_CHECK_EQ(kv.dim(3), kBlockSize);
  PENSTOCK_CHECK_EQ(kv.dim(4), heads.head_dim);
  PENSTOCK_CHECK_LE(rows, 65535);
  PENSTOCK_CHECK_LE(2 * heads.num_heads, 65535);
  PENSTOCK_CHECK(kv.is_contiguous() && keys.is_contiguous() && values.is_contiguous());
  const bool wide =
      IsWide(kv, heads.head_dim) && IsWide(keys, heads.head_dim) && IsWide(values, heads.head_dim);
  const RepeatKvShape shape = {kv.dim(0),          block_tables.dim(1), heads.num_heads,
                               heads.num_kv_heads, heads.head_dim,      max_k};
  const dim3 grid(Blocks(max_k, kBlockSize), Blocks(2 * heads.num_heads), Blocks(rows));
  ForElementType(kv.type(), [&](auto element) {
    using T = decltype(element);
    ForWidth<T>(wide, [&](auto pack) {
      Launch(stream, {grid, dim3(kThreads)}, RepeatKvKernel<T, decltype(pack)::value>,
             Elements<const T>(kv), Elements<const int32_t>(block_tables),
             Elements<const int32_t>(context_lens), shape, Elements<T>(keys), Elements<T>(values));
    });
  });
}

}  // namespace penstock::cuda
