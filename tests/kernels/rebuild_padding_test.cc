#include "core/kernels/rebuild_padding.h"

#include "tests/support/padded_rows.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

TEST(RebuildPadding, PutsHeadsOutsideAndZeroesTheRest) {
  for (int64_t heads : {1, 3}) {
    const int64_t width = 5;
    std::vector<int32_t> starts = RowStarts(kRowLengths, 9);
    const auto rows = static_cast<int64_t>(kRowLengths.size());
    const Tensor ragged = Random({starts.back() - 9, heads * width}, 4);
    const std::vector<float> tokens = ToVector(ragged);
    const Tensor padded = Poisoned({rows, heads, Longest(kRowLengths) + 2, width});
    cpu::RebuildPadding(Pool(), ragged, FromVector(starts), padded);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < padded.dim(2); ++i) {
        const int64_t t = starts[static_cast<size_t>(r)] - 9 + i;
        const bool real = i < kRowLengths[static_cast<size_t>(r)];
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t d = 0; d < width; ++d) {
            const float expected =
                real ? tokens[static_cast<size_t>((t * heads + h) * width + d)] : 0.0f;
            ASSERT_EQ(At(padded, r, h, i, d), expected) << r << " " << h << " " << i << " " << d;
          }
        }
      }
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
