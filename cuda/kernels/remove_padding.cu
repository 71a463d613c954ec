#include "core/kernels/remove_padding.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

// A block a token.
template <typename T, int N>
__global__ void RemovePaddingKernel(const T* padded, int64_t rows, int64_t heads, int64_t max_len,
                                    int64_t width, const int32_t* offsets, T* ragged,
                                    int64_t stride) {
  LetNextBegin();
  WaitForInputs();
  const int64_t offset = offsets[blockIdx.x];
  DeviceCheck(offset >= 0 && offset < rows * max_len);
  const int64_t packs = width / N;
  const auto* from = reinterpret_cast<const Pack<T, N>*>(padded) +
                     (offset / max_len * heads * max_len + offset % max_len) * packs;
  auto* to = reinterpret_cast<Pack<T, N>*>(ragged + blockIdx.x * stride);
  for (int64_t at = threadIdx.x; at < heads * packs; at += blockDim.x) {
    to[at] = from[at / packs * max_len * packs + at % packs];
  }
}

}  // namespace

void LaunchRemovePadding(cudaStream_t stream, const Tensor& padded, const Tensor& offsets,
                         const Tensor& ragged) {
  const int64_t heads = padded.dim(1);
  const int64_t width = padded.dim(3);
  PENSTOCK_CHECK_EQ(ragged.dim(0), offsets.dim(0));
  PENSTOCK_CHECK_EQ(ragged.dim(1), heads * width);
  PENSTOCK_CHECK(padded.is_contiguous());
  const bool wide = IsWide(ragged, width) && IsWide(padded, width);
  ForElementType(padded.type(), [&](auto element) {
    using T = decltype(element);
    ForWidth<T>(wide, [&](auto pack) {
      Launch(stream, {dim3(Blocks(ragged.dim(0))), dim3(128)},
             RemovePaddingKernel<T, decltype(pack)::value>, Elements<const T>(padded),
             padded.dim(0), heads, padded.dim(2), width, Elements<const int32_t>(offsets),
             Elements<T>(ragged), ragged.stride(0));
    });
  });
}

}  // namespace penstock::cuda
