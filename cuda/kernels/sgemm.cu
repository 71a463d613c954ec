#include "core/kernels/sgemm.h"
#include "cuda/gemm_tile.cuh"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

// C = alpha * A B + beta * C, row-major.
struct SgemmProblem {
  const float* a;  // [m, k]
  const float* b;  // [k, n]
  float* c;        // [m, n]
  int64_t m;
  int64_t n;
  int64_t k;
  float alpha;
  float beta;
};

// A block a tile; tiles of one column of tiles follow each other, so that B's slabs stay in
// level 2.
template <bool kAligned>
__global__ void __launch_bounds__(kTileThreads, 2) SgemmKernel(SgemmProblem problem) {
  __shared__ TileStorage storage;
  LetNextBegin();
  WaitForInputs();
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t rows = problem.m - first_row;
  const int64_t columns = problem.n - first_column;
  float sums[8][8] = {};
  MultiplyTile(storage, problem.k,
               RowMajorA<kAligned>{problem.a + first_row * problem.k, rows, problem.k},
               RowMajorB<kAligned>{problem.b + first_column, columns, problem.n, problem.k}, sums);
  const TilePlace place = ThreadPlace();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int64_t row = place.row + i / 4 * 64 + i % 4;
    if (row >= rows) continue;
    float* line = problem.c + (first_row + row) * problem.n + first_column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t column = place.column + half * 64;
      float out[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        out[j] = problem.alpha * sums[i][half * 4 + j];
        if (problem.beta != 0.0f && column + j < columns) {
          out[j] += problem.beta * line[column + j];
        }
      }
      if (kAligned && column < columns) {
        *reinterpret_cast<float4*>(line + column) = *reinterpret_cast<float4*>(out);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (column + j < columns) line[column + j] = out[j];
        }
      }
    }
  }
}

}  // namespace

void LaunchSgemm(cudaStream_t stream, float alpha, const Tensor& a, const Tensor& b, float beta,
                 const Tensor& c) {
  PENSTOCK_CHECK_EQ(a.dim(0), c.dim(0));
  PENSTOCK_CHECK_EQ(a.dim(1), b.dim(0));
  PENSTOCK_CHECK_EQ(b.dim(1), c.dim(1));
  PENSTOCK_CHECK(a.is_contiguous() && b.is_contiguous() && c.is_contiguous());
  const SgemmProblem problem = {Elements<const float>(a),
                                Elements<const float>(b),
                                Elements<float>(c),
                                c.dim(0),
                                c.dim(1),
                                a.dim(1),
                                alpha,
                                beta};
  const bool aligned = IsWide(a, problem.k) && IsWide(b, problem.n) && IsWide(c, problem.n);
  const unsigned down = Blocks(problem.m, kTile);
  const unsigned across = Blocks(problem.n, kTile);
  PENSTOCK_CHECK_LE(across, 65535u);
  Launch(stream, {dim3(down, across), dim3(kTileThreads)},
         aligned ? SgemmKernel<true> : SgemmKernel<false>, problem);
}

}  // namespace penstock::cuda
