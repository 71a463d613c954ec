#include "core/kernels/rebuild_padding.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

// A block a place (r, i) of the padded rows: it has all heads of one token, or zeros.
template <typename T, int N>
__global__ void RebuildPaddingKernel(const T* ragged, int64_t stride, int64_t num_tokens,
                                     const int32_t* row_starts, int64_t heads, int64_t max_len,
                                     int64_t width, T* padded) {
  LetNextBegin();
  WaitForInputs();
  const int64_t r = blockIdx.x / max_len;
  const int64_t i = blockIdx.x % max_len;
  const int64_t token = row_starts[r] - row_starts[0] + i;
  const int64_t length = row_starts[r + 1] - row_starts[r];
  DeviceCheck(length <= max_len);
  const bool real = i < length;
  DeviceCheck(!real || (token >= 0 && token < num_tokens));
  const auto* from = reinterpret_cast<const Pack<T, N>*>(ragged + (real ? token : 0) * stride);
  auto* to = reinterpret_cast<Pack<T, N>*>(padded);
  const int64_t packs = width / N;
  for (int64_t at = threadIdx.x; at < heads * packs; at += blockDim.x) {
    const int64_t head = at / packs;
    Pack<T, N> value = {};
    if (real) value = from[at];
    to[((r * heads + head) * max_len + i) * packs + at % packs] = value;
  }
}

}  // namespace

void LaunchRebuildPadding(cudaStream_t stream, const Tensor& ragged, const Tensor& row_starts,
                          const Tensor& padded) {
  const int64_t rows = padded.dim(0);
  const int64_t heads = padded.dim(1);
  const int64_t max_len = padded.dim(2);
  const int64_t width = padded.dim(3);
  PENSTOCK_CHECK_EQ(row_starts.dim(0), rows + 1);
  PENSTOCK_CHECK_EQ(ragged.dim(1), heads * width);
  PENSTOCK_CHECK(padded.is_contiguous());
  const bool wide = IsWide(ragged, width) && IsWide(padded, width);
  ForElementType(padded.type(), [&](auto element) {
    using T = decltype(element);
    ForWidth<T>(wide, [&](auto pack) {
      Launch(stream, {dim3(Blocks(rows * max_len)), dim3(128)},
             RebuildPaddingKernel<T, decltype(pack)::value>, Elements<const T>(ragged),
             ragged.stride(0), ragged.dim(0), Elements<const int32_t>(row_starts), heads, max_len,
             width, Elements<T>(padded));
    });
  });
}

}  // namespace penstock::cuda
