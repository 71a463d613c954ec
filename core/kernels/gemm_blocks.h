// What batched_gemm and sgemm share: a matrix product in plain pointers, and how it is cut into
// blocks for the threads. The vector code of a block is gemm_tile-inl.h.
//
// One order of sums: an element of C is one chain of fused multiply-adds over k from 0 on, then
// alpha, then beta. It depends on its row of A and its column of B alone: not on the other rows,
// columns and matrices of the product, nor on threads; and zeros behind the last k change nothing.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/base/thread_pool.h"

namespace penstock::cpu {

// C = alpha * A B + beta * C, or A B^T, dense row-major float32. C is not read when beta is 0.
struct GemmProblem {
  const float* a;  // [rows, depth]
  const float* b;  // [depth, columns], or [columns, depth] when it is transposed
  float* c;        // [rows, columns]
  int64_t rows;
  int64_t columns;
  int64_t depth;
  bool transpose_b;
  float alpha;
  float beta;
};

struct GemmBlock {
  int64_t row;
  int64_t rows;
  int64_t column;
  int64_t columns;
};

// Rows enough to pay for packing B anew, columns in whole vectors of any instruction set.
constexpr int64_t kGemmBlockRows = 240;
constexpr int64_t kGemmBlockColumns = 64;

// Calls body(i, block) for the blocks of `count` products of one shape.
template <typename Body>
void ForEachGemmBlock(ThreadPool& pool, int64_t count, int64_t rows, int64_t columns,
                      const Body& body) {
  const int64_t down = (rows + kGemmBlockRows - 1) / kGemmBlockRows;
  const int64_t across = (columns + kGemmBlockColumns - 1) / kGemmBlockColumns;
  pool.ParallelFor(count * down * across, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item / across % down * kGemmBlockRows;
      const int64_t column = item % across * kGemmBlockColumns;
      body(item / across / down, GemmBlock{row, std::min(kGemmBlockRows, rows - row), column,
                                           std::min(kGemmBlockColumns, columns - column)});
    }
  });
}

}  // namespace penstock::cpu
