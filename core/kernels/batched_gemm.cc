#include "core/kernels/batched_gemm.h"

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

int64_t BatchedGemmCount(const Tensor& a, const Tensor& b, bool transpose_b, const Tensor& c) {
  const int row = c.rank() - 2;
  const int column = row + 1;
  PENSTOCK_CHECK_GT(row, 0);
  PENSTOCK_CHECK_EQ(a.rank(), c.rank());
  PENSTOCK_CHECK_EQ(b.rank(), c.rank());
  PENSTOCK_CHECK(a.is_contiguous() && b.is_contiguous() && c.is_contiguous());
  int64_t count = 1;
  for (int i = 0; i < row; ++i) {
    PENSTOCK_CHECK_EQ(a.dim(i), c.dim(i));
    PENSTOCK_CHECK_EQ(b.dim(i), c.dim(i));
    count *= c.dim(i);
  }
  PENSTOCK_CHECK_EQ(a.dim(row), c.dim(row));
  PENSTOCK_CHECK_EQ(b.dim(transpose_b ? row : column), c.dim(column));
  PENSTOCK_CHECK_EQ(b.dim(transpose_b ? column : row), a.dim(column));
  return count;
}

void BatchedGemmReference(ThreadPool& pool, const Tensor& a, const Tensor& b, bool transpose_b,
                          float alpha, const Tensor& c) {
  const TensorWrapper<const float> left(a);
  const TensorWrapper<const float> right(b);
  const TensorWrapper<float> out(c);
  const int64_t count = BatchedGemmCount(a, b, transpose_b, c);
  const int64_t m = c.dim(c.rank() - 2);
  const int64_t n = c.dim(c.rank() - 1);
  const int64_t depth = a.dim(a.rank() - 1);
  pool.ParallelFor(count * m, 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* matrix = right.data() + row / m * depth * n;
      for (int64_t j = 0; j < n; ++j) {
        float sum = 0;
        for (int64_t k = 0; k < depth; ++k) {
          sum += left[row * depth + k] * matrix[transpose_b ? j * depth + k : k * n + j];
        }
        out[row * n + j] = alpha * sum;
      }
    }
  });
}

}  // namespace penstock::cpu
