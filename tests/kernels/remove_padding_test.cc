#include "core/kernels/remove_padding.h"

#include "core/kernels/padding_offset.h"
#include "core/kernels/rebuild_padding.h"
#include "tests/support/backends.h"
#include "tests/support/padded_rows.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& padded, const Tensor& offsets, const Tensor& ragged) {
  if (backend == Backend::kCpu) return cpu::RemovePadding(Pool(), padded, offsets, ragged);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchRemovePadding(gpu.stream(), gpu.In(padded), gpu.In(offsets), gpu.Out(ragged));
  }
}

void Check(const Target& target, int64_t heads, int64_t width) {
  const auto rows = static_cast<int64_t>(kRowLengths.size());
  const Tensor padded = As(target.type, Random({rows, heads, Longest(kRowLengths), width}, 4));
  const Tensor values = As(DataType::kF32, padded);
  std::vector<int32_t> offsets;
  std::vector<float> expected;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < kRowLengths[static_cast<size_t>(r)]; ++i) {
      offsets.push_back(static_cast<int32_t>(r * padded.dim(2) + i));
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t d = 0; d < width; ++d) expected.push_back(At(values, r, h, i, d));
      }
    }
  }
  const Tensor ragged =
      Poisoned({static_cast<int64_t>(offsets.size()), heads * width}, target.type);
  RunOn(target.backend, padded, FromVector(offsets), ragged);
  EXPECT_EQ(ToVector(ragged), expected) << target;
}

TEST(RemovePadding, TakesRealTokensOnly) {
  for (const Target& target : Targets()) {
    for (const int64_t heads : {1, 3}) {
      for (const int64_t width : {5, 16}) Check(target, heads, width);
    }
  }
}

TEST(RemovePadding, UndoesRebuildPadding) {
  std::vector<int32_t> starts = RowStarts(kRowLengths, 0);
  const int64_t max_len = Longest(kRowLengths);
  const Tensor ragged = Random({starts.back(), 12}, 8);
  const Tensor padded = Poisoned({static_cast<int64_t>(kRowLengths.size()), 4, max_len, 3});
  cpu::RebuildPadding(Pool(), ragged, FromVector(starts), padded);
  std::vector<int32_t> offsets(static_cast<size_t>(starts.back()));
  cpu::PaddingOffset(Pool(), FromVector(starts), max_len, FromVector(offsets));
  const Tensor back = Poisoned({starts.back(), 12});
  cpu::RemovePadding(Pool(), padded, FromVector(offsets), back);
  EXPECT_EQ(ToVector(back), ToVector(ragged));
}

TEST(RemovePaddingDeathTest, RefusesAnOffsetBeyondTheRows) {
  std::vector<int32_t> offsets = {8};
  EXPECT_DEATH(
      cpu::RemovePadding(Pool(), Random({2, 1, 4, 3}, 1), FromVector(offsets), Poisoned({1, 3})),
      "padded.dim\\(0\\)");
}

}  // namespace
}  // namespace penstock
