#include "core/kernels/embedding.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

// A block a token. Table rows come from device memory, once; the ids of a step stay in level 2.
template <typename From, typename To, int N>
__global__ void EmbeddingKernel(const int32_t* ids, const From* table, int64_t rows, int64_t hidden,
                                To* out, int64_t out_stride) {
  LetNextBegin();
  WaitForInputs();
  const int64_t id = ids[blockIdx.x];
  DeviceCheck(id >= 0 && id < rows);
  const auto* from = reinterpret_cast<const Pack<From, N>*>(table + id * hidden);
  auto* to = reinterpret_cast<Pack<To, N>*>(out + blockIdx.x * out_stride);
  for (int64_t i = threadIdx.x; i < hidden / N; i += blockDim.x) {
    const Pack<From, N> pack = from[i];
    Pack<To, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) result.at[j] = FromFloat<To>(ToFloat(pack.at[j]));
    to[i] = result;
  }
}

}  // namespace

void LaunchEmbedding(cudaStream_t stream, const Tensor& ids, const Tensor& table,
                     const Tensor& out) {
  const int64_t hidden = table.dim(1);
  PENSTOCK_CHECK_EQ(out.dim(0), ids.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(1), hidden);
  PENSTOCK_CHECK(table.is_contiguous());
  const auto* id = Elements<const int32_t>(ids);
  // Eight elements, which are 32 bytes of f32 and two accesses.
  const bool wide = IsWide(table, hidden) && IsWide(out, hidden) && hidden % 8 == 0;
  ForElementType(table.type(), [&](auto from) {
    ForElementType(out.type(), [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      ForWidth<__half>(wide, [&](auto width) {
        Launch(stream, {dim3(Blocks(ids.dim(0))), dim3(128)},
               EmbeddingKernel<From, To, decltype(width)::value>, id, Elements<const From>(table),
               table.dim(0), hidden, Elements<To>(out), out.stride(0));
      });
    });
  });
}

}  // namespace penstock::cuda
