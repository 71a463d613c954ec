#include "core/kernels/rebuild_padding.h"

#include "tests/support/backends.h"
#include "tests/support/padded_rows.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& ragged, const Tensor& row_starts, const Tensor& padded) {
  if (backend == Backend::kCpu) return cpu::RebuildPadding(Pool(), ragged, row_starts, padded);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchRebuildPadding(gpu.stream(), gpu.In(ragged), gpu.In(row_starts), gpu.Out(padded));
  }
}

void Check(const Target& target, int64_t heads, int64_t width) {
  std::vector<int32_t> starts = RowStarts(kRowLengths, 9);
  const auto rows = static_cast<int64_t>(kRowLengths.size());
  const Tensor ragged = As(target.type, Random({starts.back() - 9, heads * width}, 4));
  const std::vector<float> tokens = ToVector(ragged);
  const Tensor padded = Poisoned({rows, heads, Longest(kRowLengths) + 2, width}, target.type);
  RunOn(target.backend, ragged, FromVector(starts), padded);
  const Tensor values = As(DataType::kF32, padded);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < padded.dim(2); ++i) {
      const int64_t t = starts[static_cast<size_t>(r)] - 9 + i;
      const bool real = i < kRowLengths[static_cast<size_t>(r)];
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t d = 0; d < width; ++d) {
          const float expected =
              real ? tokens[static_cast<size_t>((t * heads + h) * width + d)] : 0.0f;
          ASSERT_EQ(At(values, r, h, i, d), expected) << target << r << " " << h << " " << i;
        }
      }
    }
  }
}

TEST(RebuildPadding, PutsHeadsOutsideAndZeroesTheRest) {
  for (const Target& target : Targets()) {
    for (const int64_t heads : {1, 3}) {
      for (const int64_t width : {5, 16}) Check(target, heads, width);
    }
  }
}

TEST(RebuildPaddingDeathTest, RefusesARowThatIsTooLong) {
  std::vector<int32_t> starts = {0, 5};
  EXPECT_DEATH(
      cpu::RebuildPadding(Pool(), Random({5, 2}, 1), FromVector(starts), Poisoned({1, 1, 4, 2})),
      "length <= max_len");
}

}  // namespace
}  // namespace penstock
