#include "core/kernels/flash_attention.h"

#include "hwy/highway.h"
#include "tests/support/fixed_order.h"
#include "tests/support/paged_batch.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(const Target& target, const AttentionArgs& args) {
  if (target.backend == Backend::kCpu) return cpu::FlashAttention(Pool(), args);
  if constexpr (kCudaBuilt) {
    const auto launch = [](cuda::SumOrder order) {
      return [order](const GpuCall& gpu, const AttentionArgs& on_gpu) {
        cuda::LaunchFlashAttention(gpu.stream(), on_gpu, order);
      };
    };
    HoldAgainstFixedOrder(target, args, launch(cuda::SumOrder::kFixed), [&] {
      AttendOnGpu(target.type, args, launch(cuda::SumOrder::kFastest));
    });
  }
}

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

// Head dims with and without a form for the tensor cores; whole prompts, chunks after a cached
// part, lengths on both sides of a page and of a tile; more rows than a warp has lanes.
TEST(FlashAttention, EveryTargetMatchesFloat64) {
  std::vector<int32_t> many_lens;
  std::vector<int32_t> many_feeds;
  for (int32_t r = 0; r < 70; ++r) {
    many_lens.push_back(1 + r * 37 % 200);
    many_feeds.push_back(r % 9 == 0 ? 1 : (many_lens.back() + 1) / 2);
  }
  struct Rows {
    std::vector<int32_t> lens, feeds;
  };
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads :
         {HeadLayout{9, 3, 64}, HeadLayout{7, 7, 64}, HeadLayout{4, 4, 96}, HeadLayout{8, 1, 128},
          HeadLayout{4, 2, 128}, HeadLayout{2, 1, 20}, HeadLayout{2, 2, 33}}) {
      for (const Rows& rows : {Rows{{1, 64, 65, 130, 200}, {1, 64, 65, 30, 1}}, Rows{{128}, {128}},
                               Rows{{129}, {129}}, Rows{{700, 257, 513}, {700, 129, 200}},
                               Rows{{1000}, {300}}, Rows{many_lens, many_feeds}}) {
        if (rows.lens.size() > 5 && heads.head_dim != 64) continue;
        const PagedBatch batch(heads, rows.lens, rows.feeds, 17, target.type);
        RunOn(target, batch.args());
        const std::vector<float> once = ToVector(batch.out());
        EXPECT_LE(RelativeError(batch.out(), batch.Float64()), Tolerance(target.type))
            << target << ", heads " << heads.num_heads << " / " << heads.num_kv_heads << " x "
            << heads.head_dim << ", first length " << rows.lens[0];
        RunOn(target, batch.args());
        EXPECT_EQ(once, ToVector(batch.out())) << target << ": another run, other bits";
      }
    }
  }
}

TEST(FlashAttention, LongContextsMatchFloat64) {
  for (const Target& target : Targets()) {
    if (target.backend == Backend::kCpu) continue;  // the loop is the same for any length
    const PagedBatch batch({2, 1, 128}, {20000, 3000}, {100, 3000}, 17, target.type);
    RunOn(target, batch.args());
    EXPECT_LE(RelativeError(batch.out(), batch.Float64()), Tolerance(target.type)) << target;
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

TEST(FlashAttention, EveryTargetKeepsToItsWindow) {
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads : {HeadLayout{4, 2, 32}, HeadLayout{4, 2, 128}}) {
      for (const int64_t window : {1, 2, 16, 63, 64, 65, 100, 128, 200, 1000}) {
        const PagedBatch batch(heads, {1, 64, 66, 200, 700}, {1, 64, 66, 90, 600}, 29, target.type);
        RunOn(target, batch.args(window));
        EXPECT_LE(RelativeError(batch.out(), batch.Float64(window)), Tolerance(target.type))
            << target << " head dim " << heads.head_dim << " window " << window;
      }
    }
  }
}

// What lies before the window is not even read.
TEST(FlashAttention, ThePastBeforeTheWindowIsNotRead) {
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads : {HeadLayout{2, 1, 16}, HeadLayout{2, 1, 64}}) {
      PagedBatch batch(heads, {200}, {3}, 3, target.type);
      for (int64_t p = 0; p < 198 - 70; ++p) batch.PoisonPosition(0, p);
      RunOn(target, batch.args(70));  // the oldest token sees from 197 - 69 on
      EXPECT_LE(RelativeError(batch.out(), batch.Float64(70)), Tolerance(target.type)) << target;
    }
  }
}

class FlashAttentionWindowTest : public ::testing::TestWithParam<int64_t> {};

// A prompt in one piece, or in chunks of any size behind each other: the same bits.
TEST_P(FlashAttentionWindowTest, ChunksGiveTheBitsOfTheWhole) {
  const HeadLayout heads{9, 3, 64};
  const int32_t length = 150;
  for (const Target& target : Targets()) {
    PagedBatch whole(heads, {length}, {length}, 5, target.type);
    RunOn(target, whole.args(GetParam()));
    const std::vector<float> expected = ToVector(whole.out());
    for (int32_t chunk : {1, 7, 8, 64, 149}) {
      for (int32_t begin = 0; begin < length; begin += chunk) {
        const int32_t end = std::min(length, begin + chunk);
        PagedBatch part(heads, {length}, {length}, 5, target.type);
        // The same history and cache; only tokens [begin, end) are asked for.
        const AttentionArgs all = part.args();
        std::vector<int32_t> starts = {0, end - begin};
        std::vector<int32_t> lens = {end};
        RunOn(target,
              {all.qkv.Slice(begin, end - begin), FromVector(starts), FromVector(lens),
               all.block_tables, heads, all.kv, all.out.Slice(begin, end - begin), GetParam()});
        const std::vector<float> got = ToVector(all.out.Slice(begin, end - begin));
        ASSERT_TRUE(std::equal(got.begin(), got.end(), expected.begin() + begin * heads.q_size()))
            << target << ", chunk of " << chunk << " at " << begin;
        if (chunk == 1) begin += 12;  // single tokens: a sample is enough
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Windows, FlashAttentionWindowTest,
                         ::testing::Values(kNoWindow, 1, 16, 64, 100));

TEST(FlashAttention, HugeScoresDoNotOverflow) {
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads : {HeadLayout{2, 1, 16}, HeadLayout{2, 1, 64}}) {
      PagedBatch batch(heads, {70}, {70}, 3, target.type);
      auto* qkv = static_cast<float*>(Tensor(batch.args().qkv).raw());
      for (int64_t i = 0; i < heads.q_size(); ++i) qkv[69 * heads.width() + i] *= 8192.0f;
      RunOn(target, batch.args());
      for (float value : ToVector(batch.out())) EXPECT_TRUE(std::isfinite(value)) << target;
    }
  }
}

TEST(FlashAttention, NanInACacheShows) {
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads : {HeadLayout{2, 1, 16}, HeadLayout{2, 1, 64}}) {
      PagedBatch batch(heads, {70}, {1}, 3, target.type);
      batch.PoisonPosition(0, 10);
      RunOn(target, batch.args());
      for (float value : ToVector(batch.out())) EXPECT_TRUE(std::isnan(value)) << target;
    }
  }
}

}  // namespace
}  // namespace penstock
