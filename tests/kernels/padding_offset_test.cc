#include "core/kernels/padding_offset.h"

#include "tests/support/backends.h"
#include "tests/support/padded_rows.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& row_starts, int64_t max_len, const Tensor& offsets) {
  if (backend == Backend::kCpu) return cpu::PaddingOffset(Pool(), row_starts, max_len, offsets);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchPaddingOffset(gpu.stream(), gpu.In(row_starts), max_len, gpu.Out(offsets));
  }
}

TEST(PaddingOffset, CountsAlongThePaddedRows) {
  for (const Backend backend : Backends()) {
    for (int32_t first : {0, 11}) {
      std::vector<int32_t> starts = RowStarts({2, 3, 1}, first);
      std::vector<int32_t> offsets(6, -1);
      RunOn(backend, FromVector(starts), 4, FromVector(offsets));
      EXPECT_EQ(offsets, (std::vector<int32_t>{0, 1, 4, 5, 6, 8}));
    }
  }
}

TEST(PaddingOffset, ManyRows) {
  std::vector<int32_t> lengths;
  for (int32_t r = 0; r < 300; ++r) lengths.push_back(1 + r * 7 % 13);
  std::vector<int32_t> starts = RowStarts(lengths, 5);
  std::vector<int32_t> expected;
  for (size_t r = 0; r < lengths.size(); ++r) {
    for (int32_t i = 0; i < lengths[r]; ++i) expected.push_back(static_cast<int32_t>(r) * 13 + i);
  }
  for (const Backend backend : Backends()) {
    std::vector<int32_t> offsets(static_cast<size_t>(starts.back() - 5), -1);
    RunOn(backend, FromVector(starts), 13, FromVector(offsets));
    EXPECT_EQ(offsets, expected);
  }
}

TEST(PaddingOffsetDeathTest, RefusesARowThatIsTooLong) {
  std::vector<int32_t> starts = {0, 2, 7};
  std::vector<int32_t> offsets(7);
  EXPECT_DEATH(cpu::PaddingOffset(Pool(), FromVector(starts), 4, FromVector(offsets)),
               "length <= max_len");
}

}  // namespace
}  // namespace penstock
