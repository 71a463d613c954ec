#include "core/kernels/decoder_attention.h"

#include "core/kernels/flash_attention.h"
#include "hwy/highway.h"
#include "tests/support/paged_batch.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

// A decode step: the last position's key and value are not in the cache yet.
PagedBatch Decode(const HeadLayout& heads, const std::vector<int32_t>& lens) {
  PagedBatch batch(heads, lens, std::vector<int32_t>(lens.size(), 1), 23);
  for (size_t r = 0; r < lens.size(); ++r) {
    batch.PoisonPosition(static_cast<int64_t>(r), lens[r] - 1);
  }
  return batch;
}

TEST(DecoderAttention, EveryInstructionSetMatchesFloat64) {
  for (const HeadLayout& heads :
       {HeadLayout{9, 3, 64}, HeadLayout{4, 4, 96}, HeadLayout{20, 2, 128}, HeadLayout{2, 1, 20}}) {
    const std::vector<int32_t> lens = {1, 2, 63, 64, 65, 129, 300};
    PagedBatch plain = Decode(heads, lens);
    const std::vector<double> reference = plain.Float64();
    cpu::DecoderAttentionReference(Pool(), plain.args());
    EXPECT_LE(RelativeError(plain.out(), reference), kFloatTolerance);
    for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      PagedBatch batch = Decode(heads, lens);
      cpu::DecoderAttention(Pool(), batch.args());
      EXPECT_LE(RelativeError(batch.out(), reference), kFloatTolerance)
          << hwy::TargetName(target) << " head dim " << heads.head_dim;
    }
    hwy::SetSupportedTargetsForTest(0);
  }
}

TEST(DecoderAttention, WindowsMatchFloat64) {
  const HeadLayout heads{20, 2, 32};
  const std::vector<int32_t> lens = {1, 2, 63, 64, 65, 129, 300};
  for (const int64_t window : {1, 2, 16, 64, 65, 100, 1000}) {
    PagedBatch plain = Decode(heads, lens);
    const std::vector<double> reference = plain.Float64(window);
    cpu::DecoderAttentionReference(Pool(), plain.args(window));
    EXPECT_LE(RelativeError(plain.out(), reference), kFloatTolerance) << window;
    PagedBatch batch = Decode(heads, lens);
    cpu::DecoderAttention(Pool(), batch.args(window));
    EXPECT_LE(RelativeError(batch.out(), reference), kFloatTolerance) << window;
  }
}

// What preemption, replay and prefix hits rest on: a token computed by decode has the bits that
// it would have had inside a prefill, and its key and value are in the cache.
TEST(DecoderAttention, GivesTheBitsOfFlashAttention) {
  const HeadLayout heads{9, 3, 64};
  const std::vector<int32_t> lens = {1, 64, 65, 200};
  for (const int64_t window : {kNoWindow, int64_t{1}, int64_t{16}, int64_t{64}, int64_t{100}}) {
    PagedBatch decode = Decode(heads, lens);
    cpu::DecoderAttention(Pool(), decode.args(window));
    PagedBatch flash(heads, lens, {1, 1, 1, 1}, 23);
    cpu::FlashAttention(Pool(), flash.args(window));
    EXPECT_EQ(ToVector(decode.out()), ToVector(flash.out())) << window;
    cpu::FlashAttention(Pool(), decode.args(window));  // reads what the decode wrote
    EXPECT_EQ(ToVector(decode.out()), ToVector(flash.out())) << window;
  }
}

TEST(DecoderAttention, ASequenceHasTheSameBitsInAnyBatch) {
  const HeadLayout heads{9, 3, 64};
  const std::vector<int32_t> lens = {70, 1, 130, 64};
  PagedBatch together = Decode(heads, lens);
  cpu::DecoderAttention(Pool(), together.args());
  ThreadPool one(1);
  for (int64_t r = 0; r < 4; ++r) {
    PagedBatch alone = Decode(heads, lens);
    const AttentionArgs all = alone.args();
    cpu::DecoderAttention(one, {all.qkv.Slice(r, 1), all.row_starts, all.context_lens.Slice(r, 1),
                                all.block_tables.Slice(r, 1), heads, all.kv, all.out.Slice(r, 1)});
    EXPECT_EQ(ToVector(all.out.Slice(r, 1)), ToVector(together.out().Slice(r, 1))) << r;
  }
}

}  // namespace
}  // namespace penstock
