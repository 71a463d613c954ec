// The one vector loop of batched_gemm and sgemm, compiled once for each instruction set. Columns of
// B are packed into a panel, two vectors wide, that stays in the second cache; each tile of six
// rows of A walks it with its twelve sums in registers (Goto and van de Geijn, 2008, "Anatomy of
// high-performance matrix multiplication"). See gemm_blocks.h for the order of sums.
#if defined(PENSTOCK_GEMM_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENSTOCK_GEMM_TILE_INL_H_
#undef PENSTOCK_GEMM_TILE_INL_H_
#else
#define PENSTOCK_GEMM_TILE_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "core/kernels/gemm_blocks.h"
#include "hwy/aligned_allocator.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using GemmFloats = hn::CappedTag<float, 16>;
using GemmVector = hn::Vec<GemmFloats>;
constexpr GemmFloats kGemmFloats;
constexpr int64_t kGemmTileRows = 6;
constexpr int64_t kGemmMaxPanel = 32;  // columns: two vectors of 16

// panel[k][j] = B[k][column + j] for `used` columns, zeros up to `width`.
HWY_INLINE void PackPanel(const GemmProblem& problem, int64_t column, int64_t used, int64_t width,
                          float* HWY_RESTRICT panel) {
  if (!problem.transpose_b) {
    for (int64_t k = 0; k < problem.depth; ++k) {
      std::copy_n(problem.b + k * problem.columns + column, used, panel + k * width);
      std::fill(panel + k * width + used, panel + (k + 1) * width, 0.0f);
    }
    return;
  }
  for (int64_t k = 0; k < problem.depth; ++k) {
    for (int64_t j = 0; j < used; ++j) {
      panel[k * width + j] = problem.b[(column + j) * problem.depth + k];
    }
    std::fill(panel + k * width + used, panel + (k + 1) * width, 0.0f);
  }
}

// out[r][j] = sum_k a[r][k] * panel[k][j].
HWY_INLINE void MultiplyTile(const float* const* a, const float* HWY_RESTRICT panel, int64_t depth,
                             float* HWY_RESTRICT out) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(kGemmFloats));
  GemmVector left[kGemmTileRows];
  GemmVector right[kGemmTileRows];
  for (int64_t r = 0; r < kGemmTileRows; ++r) left[r] = right[r] = hn::Zero(kGemmFloats);
  for (int64_t k = 0; k < depth; ++k) {
    const GemmVector b_left = hn::Load(kGemmFloats, panel + k * 2 * lanes);
    const GemmVector b_right = hn::Load(kGemmFloats, panel + k * 2 * lanes + lanes);
    for (int64_t r = 0; r < kGemmTileRows; ++r) {
      const GemmVector value = hn::Set(kGemmFloats, a[r][k]);
      left[r] = hn::MulAdd(value, b_left, left[r]);
      right[r] = hn::MulAdd(value, b_right, right[r]);
    }
  }
  for (int64_t r = 0; r < kGemmTileRows; ++r) {
    hn::Store(left[r], kGemmFloats, out + r * 2 * lanes);
    hn::Store(right[r], kGemmFloats, out + r * 2 * lanes + lanes);
  }
}

HWY_INLINE void MultiplyBlock(const GemmProblem& problem, const GemmBlock& block) {
  static thread_local hwy::AlignedFreeUniquePtr<float[]> panel;  // grows once, to the deepest
  static thread_local int64_t capacity = 0;
  const int64_t width = 2 * static_cast<int64_t>(hn::Lanes(kGemmFloats));
  if (capacity < problem.depth * width) {
    capacity = problem.depth * width;
    panel = hwy::AllocateAligned<float>(static_cast<size_t>(capacity));
  }
  const int64_t last_column = block.column + block.columns;
  const int64_t last_row = block.row + block.rows;
  for (int64_t column = block.column; column < last_column; column += width) {
    const int64_t used = std::min(width, last_column - column);
    PackPanel(problem, column, used, width, panel.get());
    for (int64_t row = block.row; row < last_row; row += kGemmTileRows) {
      const int64_t rows = std::min(kGemmTileRows, last_row - row);
      const float* a[kGemmTileRows];
      for (int64_t r = 0; r < kGemmTileRows; ++r) {
        a[r] = problem.a + (row + std::min(r, rows - 1)) * problem.depth;
      }
      HWY_ALIGN float tile[kGemmTileRows * kGemmMaxPanel];
      MultiplyTile(a, panel.get(), problem.depth, tile);
      for (int64_t r = 0; r < rows; ++r) {
        float* out = problem.c + (row + r) * problem.columns + column;
        for (int64_t j = 0; j < used; ++j) {
          const float product = problem.alpha * tile[r * width + j];
          out[j] = problem.beta == 0.0f ? product : product + problem.beta * out[j];
        }
      }
    }
  }
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
