#include "core/kernels/bias_rope.h"

#include <algorithm>
#include <cmath>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {
namespace {

void TurnHead(const float* cosine, int64_t half, float* low) {
  const float* sine = cosine + half;
  float* high = low + half;
  for (int64_t i = 0; i < half; ++i) {
    const float a = low[i];
    const float b = high[i];
    low[i] = a * cosine[i] - b * sine[i];
    high[i] = b * cosine[i] + a * sine[i];
  }
}

}  // namespace

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
      for (int64_t head = 0; head < heads.num_heads + heads.num_kv_heads; ++head) {
        TurnHead(cosine, half, row + head * heads.head_dim);
      }
    }
  });
}

void BiasRopePadded(ThreadPool& pool, const Tensor& qkv, const Tensor& bias,
                    const Tensor& positions, const Tensor& rope_table, const Tensor& row_starts,
                    const HeadLayout& heads, const Tensor& queries) {
  const TensorWrapper<float> tokens(qkv);
  const TensorWrapper<const int32_t> position(positions);
  const TensorWrapper<const float> table(rope_table);
  const TensorWrapper<const int32_t> starts(row_starts);
  const TensorWrapper<float> padded(queries);
  const int64_t rows = queries.dim(0);
  const int64_t max_q = queries.dim(2);
  const int64_t half = heads.head_dim / 2;
  PENSTOCK_CHECK(queries.shape() == Shape({rows, heads.num_heads, max_q, heads.head_dim}));
  PENSTOCK_CHECK_EQ(qkv.dim(1), heads.width());
  PENSTOCK_CHECK_EQ(row_starts.dim(0), rows + 1);
  PENSTOCK_CHECK_EQ(qkv.dim(0), starts[rows] - starts[0]);
  PENSTOCK_CHECK_EQ(qkv.dim(0), positions.dim(0));
  PENSTOCK_CHECK_EQ(rope_table.dim(1), heads.head_dim);
  const float* shift = nullptr;
  if (!bias.empty()) {
    PENSTOCK_CHECK_EQ(bias.dim(0), heads.width());
    shift = TensorWrapper<const float>(bias).data();
  }
  pool.ParallelFor(rows * max_q, 16, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t r = item / max_q;
      const int64_t i = item % max_q;
      const int64_t length = starts[r + 1] - starts[r];
      PENSTOCK_CHECK_LE(length, max_q);
      float* place = padded.row(r) + i * heads.head_dim;  // of head 0
      if (i >= length) {
        for (int64_t head = 0; head < heads.num_heads; ++head) {
          std::fill_n(place + head * max_q * heads.head_dim, heads.head_dim, 0.0f);
        }
        continue;
      }
      const int64_t t = starts[r] - starts[0] + i;
      float* row = tokens.row(t);
      PENSTOCK_CHECK_LT(position[t], rope_table.dim(0));
      const float* cosine = table.row(position[t]);
      for (int64_t head = 0; head < heads.num_heads; ++head) {
        const int64_t column = head * heads.head_dim;
        float* query = place + max_q * column;
        std::copy_n(row + column, heads.head_dim, query);
        if (shift != nullptr) {
          for (int64_t d = 0; d < heads.head_dim; ++d) query[d] += shift[column + d];
        }
        TurnHead(cosine, half, query);
      }
      if (shift != nullptr) {
        for (int64_t d = heads.q_size(); d < heads.width(); ++d) row[d] += shift[d];
      }
      for (int64_t head = 0; head < heads.num_kv_heads; ++head) {
        TurnHead(cosine, half, row + heads.q_size() + head * heads.head_dim);
      }
    }
  });
}

}  // namespace penstock::cpu
