#include "core/base/kv_block.h"
#include "core/kernels/concat_kv.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

// A block a token: the K heads, then the V heads, as they lie in the row.
template <typename T, int N>
__global__ void ConcatKvKernel(const T* keys_and_values, int64_t stride, const int64_t* kv_slots,
                               int64_t runs, int64_t head_dim, int64_t num_blocks, T* kv) {
  LetNextBegin();
  WaitForInputs();
  const int64_t slot = kv_slots[blockIdx.x];
  DeviceCheck(slot >= 0 && slot < num_blocks * kBlockSize);
  const int64_t packs = head_dim / N;
  const auto* from = reinterpret_cast<const Pack<T, N>*>(keys_and_values + blockIdx.x * stride);
  auto* to = reinterpret_cast<Pack<T, N>*>(kv) +
             (slot / kBlockSize * runs * kBlockSize + slot % kBlockSize) * packs;
  for (int64_t at = threadIdx.x; at < runs * packs; at += blockDim.x) {
    to[at / packs * kBlockSize * packs + at % packs] = from[at];
  }
}

}  // namespace

void LaunchConcatKv(cudaStream_t stream, const Tensor& qkv, const Tensor& kv_slots,
                    const HeadLayout& heads, const Tensor& kv) {
  PENSTOCK_CHECK_EQ(qkv.dim(1), heads.width());
  PENSTOCK_CHECK_EQ(kv_slots.dim(0), qkv.dim(0));
  PENSTOCK_CHECK_EQ(kv.dim(2), heads.num_kv_heads);
  PENSTOCK_CHECK_EQ(kv.dim(3), kBlockSize);
  PENSTOCK_CHECK_EQ(kv.dim(4), heads.head_dim);
  PENSTOCK_CHECK(kv.is_contiguous());
  const Tensor keys_and_values = qkv.Columns(heads.q_size(), 2 * heads.kv_size());
  const bool wide = IsWide(keys_and_values, heads.head_dim) && IsWide(kv, heads.head_dim);
  ForElementType(kv.type(), [&](auto element) {
    using T = decltype(element);
    ForWidth<T>(wide, [&](auto pack) {
      Launch(stream, {dim3(Blocks(qkv.dim(0))), dim3(128)},
             ConcatKvKernel<T, decltype(pack)::value>, Elements<const T>(keys_and_values),
             qkv.stride(0), Elements<const int64_t>(kv_slots), 2 * heads.num_kv_heads,
             heads.head_dim, kv.dim(0), Elements<T>(kv));
    });
  });
}

}  // namespace penstock::cuda
