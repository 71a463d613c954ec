#include "core/kernels/flash_attention.h"

#include "hwy/highway.h"
#include "tests/support/paged_batch.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

const HeadLayout kLayouts[] = {{9, 3, 64}, {4, 4, 96}, {8, 1, 128}, {2, 1, 20}};

TEST(FlashAttention, EveryInstructionSetMatchesFloat64) {
  for (const HeadLayout& heads : kLayouts) {
    // Whole prompts, a chunk after a cached part, one token, lengths on both sides of a tile.
    PagedBatch batch(heads, {1, 64, 65, 130, 200}, {1, 64, 65, 30, 1}, 17);
    const std::vector<double> reference = batch.Float64();
    cpu::FlashAttentionReference(Pool(), batch.args());
    EXPECT_LE(RelativeError(batch.out(), reference), kFloatTolerance);
    for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      batch.PoisonOut();
      cpu::FlashAttention(Pool(), batch.args());
      EXPECT_LE(RelativeError(batch.out(), reference), kFloatTolerance)
          << hwy::TargetName(target) << " head dim " << heads.head_dim;
    }
    hwy::SetSupportedTargetsForTest(0);
  }
}

// Windows below a tile, of whole tiles, across tiles and beyond every row.
TEST(FlashAttention, WindowsMatchFloat64) {
  const HeadLayout heads{4, 2, 32};
  for (const int64_t window : {1, 2, 16, 63, 64, 65, 100, 128, 1000}) {
    PagedBatch batch(heads, {1, 64, 66, 200, 300}, {1, 64, 66, 90, 1}, 29);
    const std::vector<double> reference = batch.Float64(window);
    cpu::FlashAttentionReference(Pool(), batch.args(window));
    EXPECT_LE(RelativeError(batch.out(), reference), kFloatTolerance) << window;
    for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      batch.PoisonOut();
      cpu::FlashAttention(Pool(), batch.args(window));
      EXPECT_LE(RelativeError(batch.out(), reference), kFloatTolerance)
          << hwy::TargetName(target) << " window " << window;
    }
    hwy::SetSupportedTargetsForTest(0);
  }
}

// What lies before the window is not even read.
TEST(FlashAttention, ThePastBeforeTheWindowIsNotRead) {
  const HeadLayout heads{2, 1, 16};
  PagedBatch batch(heads, {200}, {3}, 3);
  for (int64_t p = 0; p < 198 - 70; ++p) batch.PoisonPosition(0, p);
  cpu::FlashAttention(Pool(), batch.args(70));  // the oldest token sees from 197 - 69 on
  EXPECT_LE(RelativeError(batch.out(), batch.Float64(70)), kFloatTolerance);
}

class FlashAttentionWindowTest : public ::testing::TestWithParam<int64_t> {};

// A prompt in one piece, or in chunks of any size behind each other: the same bits.
TEST_P(FlashAttentionWindowTest, ChunksGiveTheBitsOfTheWhole) {
  const HeadLayout heads{9, 3, 64};
  const int32_t length = 150;
  PagedBatch whole(heads, {length}, {length}, 5);
  cpu::FlashAttention(Pool(), whole.args(GetParam()));
  const std::vector<float> expected = ToVector(whole.out());
  for (int32_t chunk : {1, 7, 8, 64, 149}) {
    for (int32_t begin = 0; begin < length; begin += chunk) {
      const int32_t end = std::min(length, begin + chunk);
      PagedBatch part(heads, {length}, {length}, 5);
      // The same history and cache; only tokens [begin, end) are asked for.
      const AttentionArgs all = part.args();
      std::vector<int32_t> starts = {0, end - begin};
      std::vector<int32_t> lens = {end};
      cpu::FlashAttention(
          Pool(), {all.qkv.Slice(begin, end - begin), FromVector(starts), FromVector(lens),
                   all.block_tables, heads, all.kv, all.out.Slice(begin, end - begin), GetParam()});
      const std::vector<float> got = ToVector(all.out.Slice(begin, end - begin));
      ASSERT_TRUE(std::equal(got.begin(), got.end(), expected.begin() + begin * heads.q_size()))
          << "chunk of " << chunk << " at " << begin;
      if (chunk == 1) begin += 12;  // single tokens: a sample is enough
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Windows, FlashAttentionWindowTest,
                         ::testing::Values(kNoWindow, 1, 16, 64, 100));

TEST(FlashAttention, HugeScoresDoNotOverflow) {
  const HeadLayout heads{2, 1, 16};
  PagedBatch batch(heads, {70}, {70}, 3);
  auto* qkv = static_cast<float*>(Tensor(batch.args().qkv).raw());
  for (int64_t i = 0; i < heads.q_size(); ++i) qkv[69 * heads.width() + i] *= 1e4f;
  cpu::FlashAttention(Pool(), batch.args());
  for (float value : ToVector(batch.out())) EXPECT_TRUE(std::isfinite(value));
}

TEST(FlashAttention, NanInACacheShows) {
  const HeadLayout heads{2, 1, 16};
  PagedBatch batch(heads, {70}, {1}, 3);
  batch.PoisonPosition(0, 10);
  cpu::FlashAttention(Pool(), batch.args());
  for (float value : ToVector(batch.out())) EXPECT_TRUE(std::isnan(value));
}

}  // namespace
}  // namespace penstock
