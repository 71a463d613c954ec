#include "core/kernels/bias_rope.h"

#include <cmath>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void FillRopeTable(float theta, const Tensor& rope_table) {
  const TensorWrapper<float> table(rope_table);
  const int64_t half = rope_table.dim(1) / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(2 * half);
    const float frequency = 1.0f / std::pow(theta, exponent);
    for (int64_t position = 0; position < rope_table.dim(0); ++position) {
      const float angle = static_cast<float>(position) * frequency;
      table.row(position)[i] = std::cos(angle);
      table.row(position)[half + i] = std::sin(angle);
    }
  }
}

void BiasRope(ThreadPool& pool, const Tensor& qkv, const Tensor& bias, const Tensor& positions,
              const Tensor& rope_table, const HeadLayout& heads) {
  const TensorWrapper<float> rows(qkv);
  const TensorWrapper<const int32_t> position(positions);
  const TensorWrapper<const float> table(rope_table);
  const int64_t half = heads.head_dim / 2;
  PENSTOCK_CHECK_EQ(qkv.dim(1), heads.width());
  PENSTOCK_CHECK_EQ(qkv.dim(0), positions.dim(0));
  PENSTOCK_CHECK_EQ(rope_table.dim(1), heads.head_dim);
  const float* shift = nullptr;
  if (!bias.empty()) {
    PENSTOCK_CHECK_EQ(bias.dim(0), heads.width());
    shift = TensorWrapper<const float>(bias).data();
  }
  pool.ParallelFor(qkv.dim(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = rows.row(t);
      if (shift != nullptr) {
        for (int64_t i = 0; i < heads.width(); ++i) row[i] += shift[i];
      }
      PENSTOCK_CHECK_LT(position[t], rope_table.dim(0));
      const float* cosine = table.row(position[t]);
      const float* sine = cosine + half;
      for (int64_t head = 0; head < heads.num_heads + heads.num_kv_heads; ++head) {
        float* low = row + head * heads.head_dim;
        float* high = low + half;
        for (int64_t i = 0; i < half; ++i) {
          const float a = low[i];
          const float b = high[i];
          low[i] = a * cosine[i] - b * sine[i];
          high[i] = b * cosine[i] + a * sine[i];
        }
      }
    }
  });
}

}  // namespace penstock::cpu
