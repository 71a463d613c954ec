#include "core/kernels/decoder_attention.h"

#include "core/kernels/flash_attention.h"
#include "cuda/kernels/fused_launchers.h"
#include "hwy/highway.h"
#include "tests/support/fixed_order.h"
#include "tests/support/paged_batch.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

// On the GPU twice with one workspace, which the first call has to leave as it found it; and so in
// the fixed order of sums.
void RunOn(const Target& target, const AttentionArgs& args) {
  if (target.backend == Backend::kCpu) return cpu::DecoderAttention(Pool(), args);
  if constexpr (kCudaBuilt) {
    const int64_t rows = args.context_lens.dim(0);
    const auto launch = [&](const Tensor& first, cuda::SumOrder order) {
      return [&args, &first, rows, order](const GpuCall& gpu, const AttentionArgs& on_gpu) {
        const Tensor workspace =
            Make(DataType::kU8, {cuda::DecoderAttentionWorkspace(args.heads, rows, order)});
        std::fill_n(static_cast<uint8_t*>(Tensor(workspace).raw()), workspace.bytes(), uint8_t{0});
        const Tensor there = gpu.In(workspace);
        cuda::LaunchDecoderAttention(
            gpu.stream(),
            {on_gpu.qkv, on_gpu.row_starts, on_gpu.context_lens, on_gpu.block_tables, on_gpu.heads,
             on_gpu.kv, gpu.Out(first), on_gpu.window},
            there, order);
        cuda::LaunchDecoderAttention(gpu.stream(), on_gpu, there, order);
      };
    };
    const Tensor first = Poisoned(args.out.shape(), target.type);
    const Tensor first_fixed = Poisoned(args.out.shape(), target.type);
    HoldAgainstFixedOrder(target, args, launch(first_fixed, cuda::SumOrder::kFixed), [&] {
      AttendOnGpu(target.type, args, launch(first, cuda::SumOrder::kFastest));
    });
    EXPECT_EQ(0, std::memcmp(As(DataType::kF32, first).raw(), args.out.raw(),
                             static_cast<size_t>(args.out.bytes())))
        << target << ": another run, other bits";
  }
}

// A decode step: the last position's key and value are not in the cache yet.
PagedBatch Decode(const HeadLayout& heads, const std::vector<int32_t>& lens,
                  DataType type = DataType::kF32) {
  PagedBatch batch(heads, lens, std::vector<int32_t>(lens.size(), 1), 23, type);
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

// Head dims with and without a form for the tensor cores, groups of 1 to 20, more rows than a warp
// has lanes; the cache afterwards holds the new positions and is otherwise as it was.
TEST(DecoderAttention, EveryTargetMatchesFloat64) {
  std::vector<int32_t> many;
  for (int32_t r = 0; r < 70; ++r) many.push_back(1 + r * 37 % 200);
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads :
         {HeadLayout{9, 3, 64}, HeadLayout{4, 4, 96}, HeadLayout{8, 2, 96}, HeadLayout{20, 2, 128},
          HeadLayout{32, 8, 128}, HeadLayout{40, 2, 64}, HeadLayout{17, 1, 128},
          HeadLayout{2, 1, 20}, HeadLayout{6, 6, 33}, HeadLayout{2, 1, 512}}) {
      for (const std::vector<int32_t>& lens :
           {std::vector<int32_t>{1, 2, 63, 64, 65, 129, 300}, std::vector<int32_t>{1},
            std::vector<int32_t>{1500}, many}) {
        if (lens.size() > 7 && heads.head_dim != 64) continue;
        const PagedBatch whole(heads, lens, std::vector<int32_t>(lens.size(), 1), 23, target.type);
        const PagedBatch batch = Decode(heads, lens, target.type);
        RunOn(target, batch.args());
        EXPECT_LE(RelativeError(batch.out(), batch.Float64()), Tolerance(target.type))
            << target << ", heads " << heads.num_heads << " / " << heads.num_kv_heads << " x "
            << heads.head_dim << ", rows " << lens.size();
        const Tensor expected = As(DataType::kF32, As(target.type, whole.kv()));
        const std::vector<float> a = ToVector(batch.kv());
        const std::vector<float> b = ToVector(expected);
        int64_t differences = 0;
        for (size_t i = 0; i < a.size(); ++i) {
          if (!(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])))) ++differences;
        }
        EXPECT_EQ(0, differences) << target << " head dim " << heads.head_dim;
      }
    }
  }
}

std::vector<int32_t> Lens(int32_t rows, int32_t least, int32_t spread) {
  std::vector<int32_t> lens;
  for (int32_t r = 0; r < rows; ++r) lens.push_back(least + r * 37 % spread);
  return lens;
}

// As many rows as have a kernel of their own on the GPU, of equal lengths and of others.
TEST(DecoderAttention, BatchesMatchFloat64) {
  for (const Target& target : Targets()) {
    if (target.backend == Backend::kCpu) continue;  // as many rows as any
    struct Case {
      HeadLayout heads;
      std::vector<int32_t> lens;
    };
    for (const Case& each :
         {Case{{32, 8, 128}, Lens(24, 256, 1)}, Case{{8, 2, 128}, Lens(30, 1, 500)},
          Case{{8, 1, 96}, Lens(20, 30, 100)}, Case{{6, 6, 64}, Lens(17, 1, 300)}}) {
      for (const int64_t window : {kNoWindow, int64_t{1}, int64_t{100}, int64_t{300}}) {
        if (window != kNoWindow && each.heads.num_heads > 8) continue;
        const PagedBatch batch = Decode(each.heads, each.lens, target.type);
        RunOn(target, batch.args(window));
        EXPECT_LE(RelativeError(batch.out(), batch.Float64(window)), Tolerance(target.type))
            << target << ", heads " << each.heads.num_heads << " / " << each.heads.num_kv_heads
            << " x " << each.heads.head_dim << ", rows " << each.lens.size() << ", window "
            << window;
      }
    }
  }
}

// More works than warps, sequences so long that they are divided, both: beside the CPU twin. The
// rows are one sequence at different positions, so that its cache is all that there is; what they
// append is there already.
TEST(DecoderAttention, LargeBatchesMatchTheCpu) {
  std::vector<int32_t> one_long = Lens(20, 30, 100);
  one_long[7] = 5000;
  std::vector<int32_t> many_and_one_long = Lens(200, 1, 60);
  many_and_one_long[199] = 5000;
  struct Case {
    HeadLayout heads;
    std::vector<int32_t> lens;
  };
  for (Case each : {Case{{4, 2, 128}, one_long}, Case{{16, 8, 64}, Lens(200, 1, 700)},
                    Case{{8, 8, 96}, many_and_one_long}, Case{{4, 1, 64}, Lens(700, 1, 300)}}) {
    const int32_t longest = *std::max_element(each.lens.begin(), each.lens.end());
    const auto rows = static_cast<int64_t>(each.lens.size());
    for (const Target& target : Targets()) {
      if (target.backend == Backend::kCpu || target.type != DataType::kBF16) continue;
      const PagedBatch one(each.heads, {longest}, {longest}, 23, target.type);
      const AttentionArgs all = one.args();
      const int64_t width = all.qkv.dim(1);
      const Tensor qkv = Make(DataType::kF32, {rows, width});
      std::vector<int32_t> tables;
      const auto* table = static_cast<const int32_t*>(all.block_tables.raw());
      const int64_t blocks = all.block_tables.dim(1);
      for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(Tensor(qkv.Slice(r, 1)).raw(),
                    all.qkv.Slice(each.lens[static_cast<size_t>(r)] - 1, 1).raw(),
                    static_cast<size_t>(width) * sizeof(float));
        tables.insert(tables.end(), table, table + blocks);
      }
      const Tensor block_tables = FromVector(tables).Reshape({rows, blocks});
      const Tensor lens = FromVector(each.lens);
      const auto attend = [&](const Target& on) {
        const Tensor out = Poisoned({rows, each.heads.q_size()});
        RunOn(on, {qkv, all.row_starts, lens, block_tables, each.heads, all.kv, out});
        return out;
      };
      const std::vector<float> twin = ToVector(attend(Targets()[0]));
      EXPECT_LE(RelativeError(attend(target), std::vector<double>(twin.begin(), twin.end())),
                Tolerance(target.type))
          << target << ", rows " << rows << ", longest " << longest;
    }
  }
}

// The others' bits, though their place among the works is another one.
TEST(DecoderAttention, RowsOfPaddingChangeNothingInABatch) {
  const HeadLayout heads{8, 2, 128};
  const std::vector<int32_t> lens = Lens(30, 1, 300);
  for (const Target& target : Targets()) {
    const PagedBatch without = Decode(heads, lens, target.type);
    const AttentionArgs all = without.args();
    RunOn(target, {all.qkv.Slice(0, 20), all.row_starts, all.context_lens.Slice(0, 20),
                   all.block_tables.Slice(0, 20), heads, all.kv, all.out.Slice(0, 20)});
    std::vector<int32_t> padded = lens;
    std::fill(padded.begin() + 20, padded.end(), 0);
    const PagedBatch with = Decode(heads, lens, target.type);
    const AttentionArgs args = with.args();
    RunOn(target, {args.qkv, args.row_starts, FromVector(padded), args.block_tables, heads, args.kv,
                   args.out});
    EXPECT_EQ(ToVector(all.out.Slice(0, 20)), ToVector(args.out.Slice(0, 20))) << target;
    for (const float value : ToVector(args.out.Slice(20, 10))) {
      ASSERT_TRUE(std::isnan(value)) << target;
    }
  }
}

TEST(DecoderAttention, NanInACacheShowsInABatchAndNowhereElse) {
  const HeadLayout heads{2, 1, 64};
  for (const Target& target : Targets()) {
    PagedBatch batch = Decode(heads, std::vector<int32_t>(20, 200), target.type);
    batch.PoisonPosition(3, 10);
    RunOn(target, batch.args());
    for (int64_t r = 0; r < 20; ++r) {
      for (const float value : ToVector(batch.out().Slice(r, 1))) {
        ASSERT_EQ(r == 3, std::isnan(value)) << target << ", row " << r;
      }
    }
  }
}

#ifdef PENSTOCK_CUDA

// With a table of angles it takes queries and keys as the product left them: the bits, of output
// and cache, of bias_rope before it, and the CPU twins' values. Few rows and many, one query head a
// KV head and more than the tensor cores take, contexts that begin a page.
TEST(DecoderAttention, TurnsQueriesAndKeysAsBiasRopeDoes) {
  std::vector<int32_t> many;
  for (int32_t r = 0; r < 40; ++r) many.push_back(1 + r * 37 % 90);
  for (const Target& target : Targets()) {
    if (target.backend == Backend::kCpu || target.type == DataType::kF32) continue;
    for (const HeadLayout& heads :
         {HeadLayout{9, 3, 64}, HeadLayout{4, 4, 96}, HeadLayout{32, 8, 128},
          HeadLayout{17, 1, 128}, HeadLayout{40, 2, 64}}) {
      for (const std::vector<int32_t>& lens :
           {std::vector<int32_t>{1}, std::vector<int32_t>{700}, std::vector<int32_t>{65, 64},
            std::vector<int32_t>{2, 63, 130}, many}) {
        if (lens.size() > 3 && heads.head_dim != 96 && heads.num_heads != 32) continue;
        const auto rows = static_cast<int64_t>(lens.size());
        std::vector<int32_t> positions;
        for (const int32_t len : lens) positions.push_back(len - 1);
        std::vector<float> frequencies;
        for (int64_t i = 0; i < heads.head_dim / 2; ++i) {
          frequencies.push_back(std::pow(0.9f, static_cast<float>(i)));
        }
        const Tensor table = Poisoned({rows, heads.head_dim});
        cpu::RopeTable(Pool(), frequencies, FromVector(positions), table);
        struct Run {
          int64_t window;
          cuda::SumOrder order;
        };
        for (const auto& [window, order] :
             {Run{kNoWindow, cuda::SumOrder::kFastest}, Run{100, cuda::SumOrder::kFastest},
              Run{kNoWindow, cuda::SumOrder::kFixed}}) {
          if (window != kNoWindow && heads.head_dim != 128) continue;
          if (order == cuda::SumOrder::kFixed && target.type == DataType::kF16) continue;
          const auto run = [&, window = window, order = order](bool apart) {
            const PagedBatch batch = Decode(heads, lens, target.type);
            AttendOnGpu(
                target.type, batch.args(window),
                [&](const GpuCall& gpu, const AttentionArgs& args) {
                  const Tensor workspace =
                      Make(DataType::kU8, {cuda::DecoderAttentionWorkspace(heads, rows, order)});
                  std::fill_n(static_cast<uint8_t*>(Tensor(workspace).raw()), workspace.bytes(),
                              uint8_t{0});
                  const Tensor there = gpu.In(workspace);
                  const Tensor angles = gpu.In(table);
                  if (apart) {
                    cuda::LaunchBiasRope(
                        gpu.stream(), {args.qkv, Tensor(), Tensor(), Tensor(), 0, angles, heads});
                    cuda::LaunchDecoderAttention(gpu.stream(), args, there, order);
                  } else {
                    ASSERT_TRUE(cuda::HasRopeDecoderAttention(args));
                    cuda::LaunchRopeDecoderAttention(gpu.stream(), angles, args, there, order);
                  }
                });
            return batch;
          };
          const PagedBatch together = run(false);
          const PagedBatch apart = run(true);
          const auto bytes = [](const Tensor& tensor) {
            return static_cast<size_t>(tensor.bytes());
          };
          EXPECT_EQ(0, std::memcmp(together.out().raw(), apart.out().raw(), bytes(apart.out())))
              << target << ", rows " << rows << ", head dim " << heads.head_dim;
          EXPECT_EQ(0, std::memcmp(together.kv().raw(), apart.kv().raw(), bytes(apart.kv())))
              << target << ", rows " << rows << ", head dim " << heads.head_dim;

          const PagedBatch twin = Decode(heads, lens, target.type);
          const AttentionArgs args = twin.args(window);
          cpu::BiasRope(Pool(), {args.qkv, Tensor(), Tensor(), Tensor(), 0, table, heads});
          cpu::DecoderAttention(Pool(), args);
          const std::vector<float> expected = ToVector(twin.out());
          EXPECT_LE(
              RelativeError(together.out(), std::vector<double>(expected.begin(), expected.end())),
              Tolerance(target.type))
              << target << ", rows " << rows << ", head dim " << heads.head_dim;
        }
      }
    }
  }
}

#endif  // PENSTOCK_CUDA

TEST(DecoderAttention, LongContextsMatchFloat64) {
  for (const Target& target : Targets()) {
    if (target.backend == Backend::kCpu) continue;  // the loop is the same for any length
    struct Rows {
      HeadLayout heads;
      std::vector<int32_t> lens;
    };
    for (const Rows& rows : {Rows{{4, 1, 64}, {131072}}, Rows{{1, 1, 128}, {1, 32769, 4096}}}) {
      const PagedBatch batch = Decode(rows.heads, rows.lens, target.type);
      RunOn(target, batch.args());
      const std::vector<double> reference = batch.Float64();
      EXPECT_LE(RelativeError(batch.out(), reference), Tolerance(target.type))
          << target << ", " << rows.lens[0];
      // The last row alone: long rows' results are small.
      const Tensor last = batch.out().Slice(batch.out().dim(0) - 1, 1);
      const std::vector<double> of_last(reference.end() - last.num_elements(), reference.end());
      EXPECT_LE(RelativeError(last, of_last), Tolerance(target.type)) << target;
    }
  }
}

TEST(DecoderAttention, EveryTargetKeepsToItsWindow) {
  const std::vector<int32_t> lens = {1, 2, 63, 64, 65, 129, 300, 900};
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads : {HeadLayout{20, 2, 32}, HeadLayout{8, 2, 128}}) {
      for (const int64_t window : {1, 2, 16, 64, 65, 100, 1000}) {
        PagedBatch batch = Decode(heads, lens, target.type);
        for (size_t r = 0; r < lens.size(); ++r) {  // what lies before is not even read
          for (int64_t p = 0; p < lens[r] - window; ++p) {
            batch.PoisonPosition(static_cast<int64_t>(r), p);
          }
        }
        RunOn(target, batch.args(window));
        EXPECT_LE(RelativeError(batch.out(), batch.Float64(window)), Tolerance(target.type))
            << target << " head dim " << heads.head_dim << " window " << window;
      }
    }
  }
}

// Behind the others, between them, under a window, and alone.
TEST(DecoderAttention, RowsOfPaddingChangeNothing) {
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads :
         {HeadLayout{9, 3, 64}, HeadLayout{20, 2, 128}, HeadLayout{6, 6, 33}}) {
      for (const int64_t window : {kNoWindow, int64_t{100}}) {
        const std::vector<int32_t> lens = {70, 300, 64, 1, 129};
        const PagedBatch without = Decode(heads, lens, target.type);
        const AttentionArgs all = without.args(window);
        const Tensor qkv = all.qkv.Slice(0, 3);
        const Tensor three_lens = all.context_lens.Slice(0, 3);
        const Tensor tables = all.block_tables.Slice(0, 3);
        const Tensor out = Poisoned({3, heads.q_size()});
        RunOn(target, {qkv, all.row_starts, three_lens, tables, heads, all.kv, out, window});
        for (std::vector<int32_t> padded :
             {std::vector<int32_t>{70, 300, 64, 0, 0}, std::vector<int32_t>{70, 0, 64, 0, 129},
              std::vector<int32_t>{0, 0, 0, 0, 0}}) {
          const PagedBatch with = Decode(heads, lens, target.type);
          const AttentionArgs args = with.args(window);
          const Tensor padded_lens = FromVector(padded);
          const std::vector<float> cache = ToVector(args.kv);
          RunOn(target, {args.qkv, args.row_starts, padded_lens, args.block_tables, heads, args.kv,
                         args.out, window});
          for (int64_t r = 0; r < 5; ++r) {
            const std::vector<float> row = ToVector(args.out.Slice(r, 1));
            if (padded[static_cast<size_t>(r)] == 0) {
              for (const float value : row) ASSERT_TRUE(std::isnan(value)) << target;
            } else if (padded[1] == 300 && r < 3) {
              EXPECT_EQ(row, ToVector(out.Slice(r, 1))) << target << ", row " << r;
            } else {
              for (const float value : row) ASSERT_FALSE(std::isnan(value)) << target;
            }
          }
          if (padded[0] == 0) {  // not a bit of the cache either
            const std::vector<float> after = ToVector(args.kv);
            for (size_t i = 0; i < cache.size(); ++i) {
              ASSERT_EQ(std::isnan(cache[i]), std::isnan(after[i])) << target;
            }
          }
        }
      }
    }
  }
}

TEST(DecoderAttention, NanInACacheShows) {
  for (const Target& target : Targets()) {
    PagedBatch batch = Decode({2, 1, 64}, {200}, target.type);
    batch.PoisonPosition(0, 10);
    RunOn(target, batch.args());
    for (float value : ToVector(batch.out())) EXPECT_TRUE(std::isnan(value)) << target;
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
