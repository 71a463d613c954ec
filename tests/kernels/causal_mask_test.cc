#include "core/kernels/causal_mask.h"

#include "tests/support/backends.h"
#include "tests/support/padded_rows.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& row_starts, const Tensor& context_lens, int64_t window,
           const Tensor& mask) {
  if (backend == Backend::kCpu)
    return cpu::CausalMask(Pool(), row_starts, context_lens, window, mask);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchCausalMask(gpu.stream(), gpu.In(row_starts), gpu.In(context_lens), window,
                           gpu.Out(mask));
  }
}

// Rows of the mask as text, one character a position.
std::vector<std::string> Drawn(Backend backend, const std::vector<int32_t>& lengths,
                               std::vector<int32_t> contexts, int64_t window, int64_t max_q,
                               int64_t max_k) {
  std::vector<int32_t> starts = RowStarts(lengths, 4);
  const auto rows = static_cast<int64_t>(lengths.size());
  Tensor mask = Make(DataType::kU8, {rows, max_q, max_k});
  auto* cells = static_cast<uint8_t*>(mask.raw());
  std::fill_n(cells, mask.num_elements(), uint8_t{77});
  RunOn(backend, FromVector(starts), FromVector(contexts), window, mask);
  std::vector<std::string> text;
  for (int64_t line = 0; line < rows * max_q; ++line) {
    text.emplace_back();
    for (int64_t j = 0; j < max_k; ++j) {
      const uint8_t cell = cells[line * max_k + j];
      text.back() += cell == 0 ? '.' : (cell == 1 ? 'x' : '?');
    }
  }
  return text;
}

TEST(CausalMask, PromptsAndAChunkAfterACachedPrefix) {
  for (const Backend backend : Backends()) {
    EXPECT_EQ(Drawn(backend, {3, 2, 1}, {3, 5, 1}, kNoWindow, 3, 6),
              (std::vector<std::string>{"x.....", "xx....", "xxx...",  // a whole prompt
                                        "xxxx..", "xxxxx.", "......",  // 2 tokens after 3
                                        "x.....", "......", "......"}));
  }
}

TEST(CausalMask, AWindowHidesTheOldest) {
  for (const Backend backend : Backends()) {
    EXPECT_EQ(Drawn(backend, {3, 2}, {3, 6}, 2, 3, 6),
              (std::vector<std::string>{"x.....", "xx....", ".xx...",  //
                                        "...xx.", "....xx", "......"}));
    EXPECT_EQ(Drawn(backend, {2}, {6}, 100, 2, 6), (std::vector<std::string>{"xxxxx.", "xxxxxx"}));
  }
}

TEST(CausalMask, ManyQueries) {
  for (const Backend backend : Backends()) {
    for (const size_t width : {size_t{201}, size_t{208}}) {
      const std::vector<std::string> drawn =
          Drawn(backend, {70, 33}, {200, 33}, kNoWindow, 70, static_cast<int64_t>(width));
      for (size_t i = 0; i < 70; ++i) {
        EXPECT_EQ(drawn[i], std::string(131 + i, 'x') + std::string(width - 131 - i, '.'));
        const size_t seen = i < 33 ? i + 1 : 0;
        EXPECT_EQ(drawn[70 + i], std::string(seen, 'x') + std::string(width - seen, '.'));
      }
    }
  }
}

TEST(CausalMaskDeathTest, RefusesAContextBeyondTheMask) {
  EXPECT_DEATH(Drawn(Backend::kCpu, {2}, {7}, kNoWindow, 2, 6), "lens\\[r\\] <= max_k");
}

}  // namespace
}  // namespace penstock
