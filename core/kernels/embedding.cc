#include "core/kernels/embedding.h"

#include "core/base/check.h"
#include "core/tensor/dequantize.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void Embedding(ThreadPool& pool, const Tensor& ids, const Tensor& table, const Tensor& out) {
  const TensorWrapper<const int32_t> id(ids);
  const TensorWrapper<float> rows(out);
  const int64_t hidden = table.dim(1);
  PENSTOCK_CHECK_EQ(out.dim(0), ids.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(1), hidden);
  pool.ParallelFor(ids.dim(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      PENSTOCK_CHECK_GE(id[t], 0);
      PENSTOCK_CHECK_LT(id[t], table.dim(0));
      Dequantize(table.type(), table.Slice(id[t], 1).raw(), hidden, rows.row(t));
    }
  });
}

}  // namespace penstock::cpu
