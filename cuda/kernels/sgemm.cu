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
template <typename Shape, bool kAligned>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kAtOnce)
    SgemmKernel(SgemmProblem problem) {
  extern __shared__ __align__(16) float storage[];  // Shape::kBytes
  LetNextBegin();
  WaitForInputs();
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * Shape::kRows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * Shape::kColumns;
  const int64_t rows = problem.m - first_row;
  const int64_t columns = problem.n - first_column;
  TileSums<Shape> sums = {};
  MultiplyTile<Shape>(
      storage, problem.k,
      RowMajorA<Shape, kAligned>{problem.a + first_row * problem.k, rows, problem.k},
      RowMajorB<Shape, kAligned>{problem.b + first_column, columns, problem.n, problem.k}, sums);
  const TilePlace<Shape> place;
#pragma unroll
  for (int i = 0; i < kTileThreadRows; ++i) {
    const int row = place.row + i * 8;
    if (row >= rows) continue;
    float* line = problem.c + (first_row + row) * problem.n + first_column;
#pragma unroll
    for (int j = 0; j < Shape::kThreadColumns; j += 4) {
      const int column = place.column + j * 4;
      float out[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        out[n] = problem.alpha * sums[i][j + n];
        if (problem.beta != 0.0f && column + n < columns) {
          out[n] += problem.beta * line[column + n];
        }
      }
      if (kAligned && column < columns) {
        *reinterpret_cast<float4*>(line + column) = *reinterpret_cast<float4*>(out);
      } else {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          if (column + n < columns) line[column + n] = out[n];
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
  const auto kernel = aligned ? SgemmKernel<SquareTile, true> : SgemmKernel<SquareTile, false>;
  const unsigned down = Blocks(problem.m, SquareTile::kRows);
  const unsigned across = Blocks(problem.n, SquareTile::kColumns);
  PENSTOCK_CHECK_LE(across, 65535u);
  AllowShared(kernel, SquareTile::kBytes);
  Launch(stream, {dim3(down, across), dim3(SquareTile::kThreads), SquareTile::kBytes}, kernel,
         problem);
}

}  // namespace penstock::cuda
