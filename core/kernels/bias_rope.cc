#include "core/kernels/bias_rope.h"

#include <algorithm>
#include <cmath>

#include "core/base/check.h"
#include "core/kernels/rms_norm.h"
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

void AddTo(const float* shift, int64_t count, float* x) {
  if (shift == nullptr) return;
  for (int64_t i = 0; i < count; ++i) x[i] += shift[i];
}

// The checked arguments as the loops want them.
struct HeadTransform {
  explicit HeadTransform(const BiasRopeArgs& args)
      : rows(args.qkv),
        table(args.rope_table),
        bias(Optional(args.bias, args.heads.width())),
        q_gain(Optional(args.q_gain, args.heads.head_dim)),
        k_gain(Optional(args.k_gain, args.heads.head_dim)),
        eps(args.eps),
        heads(args.heads) {
    PENSTOCK_CHECK_EQ(args.qkv.dim(1), heads.width());
    PENSTOCK_CHECK_EQ(args.rope_table.dim(0), args.qkv.dim(0));
    PENSTOCK_CHECK_EQ(args.rope_table.dim(1), heads.head_dim);
  }

  // Norm and rotation of a head of token t that has its bias.
  void Turn(const float* gain, int64_t t, float* head) const {
    if (gain != nullptr) RmsNormRow(head, gain, heads.head_dim, eps, head);
    TurnHead(table.row(t), heads.head_dim / 2, head);
  }

  // All of token t but the queries.
  void KeysAndValues(int64_t t) const {
    const int64_t q = heads.q_size();
    float* keys = rows.row(t) + q;
    AddTo(bias == nullptr ? nullptr : bias + q, 2 * heads.kv_size(), keys);
    for (int64_t head = 0; head < heads.num_kv_heads; ++head) {
      Turn(k_gain, t, keys + head * heads.head_dim);
    }
  }

  const TensorWrapper<float> rows;
  const TensorWrapper<const float> table;
  const float* const bias;
  const float* const q_gain;
  const float* const k_gain;
  const float eps;
  const HeadLayout heads;

 private:
  static const float* Optional(const Tensor& vector, int64_t count) {
    if (vector.empty()) return nullptr;
    PENSTOCK_CHECK_EQ(vector.dim(0), count);
    return TensorWrapper<const float>(vector).data();
  }
};

}  // namespace

void RopeTable(ThreadPool& pool, std::span<const float> frequencies, const Tensor& positions,
               const Tensor& table) {
  const TensorWrapper<const int32_t> position(positions);
  const TensorWrapper<float> out(table);
  const auto half = static_cast<int64_t>(frequencies.size());
  PENSTOCK_CHECK_EQ(table.dim(0), positions.dim(0));
  PENSTOCK_CHECK_EQ(table.dim(1), 2 * half);
  pool.ParallelFor(positions.dim(0), 8, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = out.row(t);
      for (int64_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(position[t]) * frequencies[static_cast<size_t>(i)];
        row[i] = std::cos(angle);
        row[half + i] = std::sin(angle);
      }
    }
  });
}

void BiasRope(ThreadPool& pool, const BiasRopeArgs& args) {
  const HeadTransform transform(args);
  const HeadLayout& heads = args.heads;
  pool.ParallelFor(args.qkv.dim(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* queries = transform.rows.row(t);
      AddTo(transform.bias, heads.q_size(), queries);
      for (int64_t head = 0; head < heads.num_heads; ++head) {
        transform.Turn(transform.q_gain, t, queries + head * heads.head_dim);
      }
      transform.KeysAndValues(t);
    }
  });
}

void BiasRopePadded(ThreadPool& pool, const BiasRopeArgs& args, const Tensor& row_starts,
                    const Tensor& queries) {
  const HeadTransform transform(args);
  const HeadLayout& heads = args.heads;
  const TensorWrapper<const int32_t> starts(row_starts);
  const TensorWrapper<float> padded(queries);
  const int64_t rows = queries.dim(0);
  const int64_t max_q = queries.dim(2);
  PENSTOCK_CHECK(queries.shape() == Shape({rows, heads.num_heads, max_q, heads.head_dim}));
  PENSTOCK_CHECK_EQ(row_starts.dim(0), rows + 1);
  PENSTOCK_CHECK_EQ(args.qkv.dim(0), starts[rows] - starts[0]);
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
      for (int64_t head = 0; head < heads.num_heads; ++head) {
        const int64_t column = head * heads.head_dim;
        float* query = place + max_q * column;
        std::copy_n(transform.rows.row(t) + column, heads.head_dim, query);
        AddTo(transform.bias == nullptr ? nullptr : transform.bias + column, heads.head_dim, query);
        transform.Turn(transform.q_gain, t, query);
      }
      transform.KeysAndValues(t);
    }
  });
}

}  // namespace penstock::cpu
