// The plain inner loop of both attention stems, for every type and head dim: up to 16 query rows
// meet tiles of 64 keys and values, in float32 on the ordinary cores. It is the only path for f32,
// whose products the tensor cores would round, and the one for head dims that they have no form
// for.
//
// What lives where: a tile's keys and weights and the queries in shared memory; of the output a
// thread has one element (of each 128) of every row in registers; values come from device memory
// or level 2, each once.
#pragma once

#include "cuda/paged_attention.cuh"

namespace penstock::cuda {

inline constexpr int kPlainRows = 16;
inline constexpr int kPlainThreads = 128;
inline constexpr int kPlainSteps = static_cast<int>(kMaxHeadDim) / kPlainThreads;

struct PlainAttention {
  static constexpr int kLine = kPlainRows + 4;  // of weights: 16-byte loads, few bank conflicts

  float* queries;  // [head_dim][kPlainRows]
  float* weights;  // [kPage][kLine]
  float* keys;     // [kPage][head_dim + 1]
  float* top;      // [kPlainRows], and so on
  float* total;
  float* rescale;
  int head_dim;
  int count;  // rows in use
  float scale;
  float sums[kPlainRows][kPlainSteps];  // of element threadIdx.x + 128 * step

  static size_t SharedBytes(int64_t head_dim) {
    return sizeof(float) * static_cast<size_t>(head_dim * kPlainRows + kPage * kLine +
                                               kPage * (head_dim + 1) + 3 * kPlainRows);
  }

  // `shared` is aligned to 16 bytes.
  __device__ PlainAttention(float* shared, int dim, float log2_scale)
      : head_dim(dim), scale(log2_scale) {
    queries = shared;
    weights = queries + head_dim * kPlainRows;
    keys = weights + kPage * kLine;
    top = keys + kPage * (head_dim + 1);
    total = top + kPlainRows;
    rescale = total + kPlainRows;
  }

  // query(row) points to a row's head_dim elements.
  template <typename Query>
  __device__ void Begin(int rows, const Query& query) {
    __syncthreads();  // whoever still reads the last one's
    count = rows;
    for (int i = threadIdx.x; i < kPlainRows * head_dim; i += kPlainThreads) {
      const int row = i / head_dim;
      const int at = i % head_dim;
      queries[at * kPlainRows + row] = row < count ? ToFloat(query(row)[at]) : 0.0f;
    }
    if (threadIdx.x < kPlainRows) {
      top[threadIdx.x] = -INFINITY;
      total[threadIdx.x] = 0;
    }
#pragma unroll
    for (int row = 0; row < kPlainRows; ++row) {
#pragma unroll
      for (int step = 0; step < kPlainSteps; ++step) sums[row][step] = 0;
    }
  }

  // The page's places that any row sees; sees(row, place) says which does.
  template <typename T, typename Sees>
  __device__ void Attend(const T* page_keys, const T* page_values, Range seen, const Sees& sees) {
    for (int i = seen.begin * head_dim + threadIdx.x; i < seen.end * head_dim; i += kPlainThreads) {
      keys[i + i / head_dim] = ToFloat(page_keys[i]);
    }
    __syncthreads();
    Score(seen, sees);
    __syncthreads();
    Weigh();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kPlainSteps; ++step) {
      const int at = threadIdx.x + step * kPlainThreads;
      if (at >= head_dim) break;
#pragma unroll
      for (int row = 0; row < kPlainRows; ++row) sums[row][step] *= rescale[row];
#pragma unroll 8
      for (int place = seen.begin; place < seen.end; ++place) {
        const float value = ToFloat(page_values[place * head_dim + at]);
        const auto* weight = reinterpret_cast<const float4*>(weights + place * kLine);
#pragma unroll
        for (int four = 0; four < kPlainRows / 4; ++four) {
          const float4 by = weight[four];
          sums[four * 4][step] = fmaf(by.x, value, sums[four * 4][step]);
          sums[four * 4 + 1][step] = fmaf(by.y, value, sums[four * 4 + 1][step]);
          sums[four * 4 + 2][step] = fmaf(by.z, value, sums[four * 4 + 2][step]);
          sums[four * 4 + 3][step] = fmaf(by.w, value, sums[four * 4 + 3][step]);
        }
      }
    }
  }

 private:
  // A thread has one key and half of the rows.
  template <typename Sees>
  __device__ void Score(Range seen, const Sees& sees) {
    constexpr int kHalf = kPlainRows / 2;
    const int place = threadIdx.x % kPage;
    const int first = threadIdx.x / kPage * kHalf;
    float dots[kHalf] = {};
    if (place >= seen.begin && place < seen.end) {
      const float* key = keys + place * (head_dim + 1);
      for (int i = 0; i < head_dim; ++i) {
        const auto* query = reinterpret_cast<const float4*>(queries + i * kPlainRows + first);
        const float4 a = query[0];
        const float4 b = query[1];
        const float by = key[i];
        dots[0] = fmaf(a.x, by, dots[0]);
        dots[1] = fmaf(a.y, by, dots[1]);
        dots[2] = fmaf(a.z, by, dots[2]);
        dots[3] = fmaf(a.w, by, dots[3]);
        dots[4] = fmaf(b.x, by, dots[4]);
        dots[5] = fmaf(b.y, by, dots[5]);
        dots[6] = fmaf(b.z, by, dots[6]);
        dots[7] = fmaf(b.w, by, dots[7]);
      }
    }
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const bool in = place >= seen.begin && place < seen.end && sees(first + i, place);
      weights[place * kLine + first + i] = in ? dots[i] * scale : -INFINITY;
    }
  }

  // A warp has every fourth row.
  __device__ void Weigh() {
    const int lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row < count; row += kPlainThreads / 32) {
      float* a = weights + lane * kLine + row;
      float* b = a + 32 * kLine;
      const float before = top[row];
      const float after = fmaxf(before, WarpReduce(fmaxf(*a, *b), Max()));
      const float base = after == -INFINITY ? 0.0f : after;  // a row may see nothing of this page
      *a = exp2f(*a - base);
      *b = exp2f(*b - base);
      const float sum = WarpReduce(*a + *b, Sum());
      __syncwarp();  // all have read top[row]
      if (lane == 0) {
        const float factor = exp2f(before - base);
        top[row] = after;
        rescale[row] = factor;
        total[row] = total[row] * factor + sum;
      }
    }
  }
};

}  // namespace penstock::cuda
