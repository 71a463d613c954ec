// What --invariant promises of the kernels: in the fixed order of sums a token's row of linear and
// of attention has the same bits whatever the batch, the chunk, and the way, decode or prefill.
#include <algorithm>
#include <cstdio>

#include "cuda/blas.h"
#include "cuda/sum_chain.h"
#include "tests/support/attention_on_gpu.h"
#include "tests/support/paged_batch.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)
using cuda::SumOrder;

constexpr DataType kTypes[] = {DataType::kF16, DataType::kBF16};

class FixedOrderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!GpuCall::Available()) GTEST_SKIP();
  }
};

// Rows of a product beside those of another.
int64_t Differences(const Tensor& a, const Tensor& b) {
  const std::vector<float> left = ToVector(a);
  const std::vector<float> right = ToVector(b);
  int64_t count = 0;
  for (size_t i = 0; i < left.size(); ++i) count += left[i] == right[i] ? 0 : 1;
  return count;
}

// Prints the first elements that differ.
void Tell(const Tensor& a, const Tensor& b) {
  const std::vector<float> left = ToVector(a);
  const std::vector<float> right = ToVector(b);
  int told = 0;
  for (size_t i = 0; i < left.size() && told < 4; ++i) {
    if (left[i] == right[i]) continue;
    std::printf("element %zu: %.9g, not %.9g\n", i, left[i], right[i]);
    ++told;
  }
}

struct Product {
  int64_t in, out;
};

// Rising numbers of tokens of the same x, all beside the chain itself.
TEST_F(FixedOrderTest, LinearIsOneChainForAnyNumberOfTokens) {
  constexpr int64_t kMost = 300;
  for (const DataType type : kTypes) {
    for (const Product& product : {Product{64, 48}, Product{512, 20016}, Product{1536, 6144},
                                   Product{576, 960}, Product{4096, 512}, Product{14336, 256},
                                   Product{1536, 576}, Product{96, 70}, Product{47, 33}}) {
      // Of all magnitudes, so that every order of sums is another sum.
      const Tensor x = As(type, Random({kMost, product.in}, 11));
      const Tensor weight = As(type, Random({product.out, product.in}, 12));
      for (const DataType out_type : {type, DataType::kF32}) {
        const Tensor chain = Poisoned({kMost, product.out}, out_type);
        {
          const GpuCall gpu;
          cuda::LaunchChainLinear(gpu.stream(), gpu.In(x), gpu.In(weight), gpu.Out(chain));
        }
        cuda::Blas blas;
        blas.set_sum_order(SumOrder::kFixed);
        const GpuCall gpu;
        const Tensor on_gpu = gpu.In(x);
        const Tensor weight_there = gpu.In(weight);
        for (int64_t tokens = 1; tokens <= kMost; tokens += tokens < 34 ? 1 : 19) {
          const Tensor out = Poisoned({tokens, product.out}, out_type);
          {
            const GpuCall inner;
            cuda::LaunchLinear(blas, inner.stream(), on_gpu.Slice(0, tokens), weight_there,
                               inner.Out(out));
          }
          const int64_t differences = Differences(out, chain.Slice(0, tokens));
          if (differences > 0) Tell(out, chain.Slice(0, tokens));
          ASSERT_EQ(0, differences) << Name(type) << " to " << Name(out_type) << ", " << tokens
                                    << " x " << product.in << " x " << product.out;
        }
      }
    }
  }
}

// The residual sum: the chain is added to it, whichever kernel has the chain.
TEST_F(FixedOrderTest, AddsTheChainForAnyNumberOfTokens) {
  constexpr int64_t kMost = 300;
  for (const DataType type : kTypes) {
    for (const Product& product : {Product{1536, 576}, Product{11008, 512}, Product{47, 33}}) {
      const Tensor x = As(type, Random({kMost, product.in}, 11));
      const Tensor weight = As(type, Random({product.out, product.in}, 12));
      const Shape shape({kMost, product.out});
      const Tensor chain = Random(shape, 13, 100.0f);
      {
        const GpuCall gpu;
        cuda::LaunchChainLinear(gpu.stream(), gpu.In(x), gpu.In(weight), gpu.Out(chain), true);
      }
      cuda::Blas blas;
      blas.set_sum_order(SumOrder::kFixed);
      for (int64_t tokens = 1; tokens <= kMost; tokens += tokens < 34 ? 1 : 19) {
        const Tensor sum = Random({tokens, product.out}, 13, 100.0f);
        {
          const GpuCall gpu;
          cuda::LaunchLinearAdd(blas, gpu.stream(), gpu.In(x.Slice(0, tokens)), gpu.In(weight),
                                gpu.Out(sum));
        }
        const int64_t differences = Differences(sum, chain.Slice(0, tokens));
        if (differences > 0) Tell(sum, chain.Slice(0, tokens));
        ASSERT_EQ(0, differences) << Name(type) << ", " << tokens << " x " << product.in << " x "
                                  << product.out;
      }
    }
  }
}

// So the tests above can fail: the fast order is another one for another number of tokens.
TEST_F(FixedOrderTest, TheFastestOrderIsNotOneChain) {
  const Tensor x = As(DataType::kBF16, Random({64, 4096}, 11));
  const Tensor weight = As(DataType::kBF16, Random({4096, 4096}, 12));
  const Tensor chain = Poisoned({64, 4096}, DataType::kBF16);
  const Tensor fast = Poisoned({1, 4096}, DataType::kBF16);
  const GpuCall gpu;
  const Tensor weight_there = gpu.In(weight);
  const Tensor on_gpu = gpu.In(x);
  {
    const GpuCall inner;
    cuda::LaunchChainLinear(inner.stream(), on_gpu, weight_there, inner.Out(chain));
    cuda::LaunchLinear(inner.blas(), inner.stream(), on_gpu.Slice(0, 1), weight_there,
                       inner.Out(fast));
  }
  EXPECT_GT(Differences(fast, chain.Slice(0, 1)), 0);
}

TEST_F(FixedOrderTest, AnotherOrderIsNoChain) {
  const Tensor x = As(DataType::kBF16, Random({8, 4096}, 11));
  const Tensor weight = As(DataType::kBF16, Random({4096, 4096}, 12));
  const Tensor out = Poisoned({8, 4096}, DataType::kBF16);
  const GpuCall gpu;
  const Tensor there = gpu.Out(out);
  const Tensor weight_there = gpu.In(weight);
  EXPECT_FALSE(cuda::IsChain(gpu.stream(), gpu.In(x), weight_there, there, [&](const Tensor& of) {
    cuda::LaunchLinear(gpu.blas(), gpu.stream(), of, weight_there, there);
  }));
  EXPECT_TRUE(cuda::IsChain(gpu.stream(), gpu.In(x), weight_there, there, [&](const Tensor& of) {
    cuda::LaunchChainLinear(gpu.stream(), of, weight_there, there);
  }));
}

void Flash(DataType type, const AttentionArgs& args, SumOrder order) {
  AttendOnGpu(type, args, [&](const GpuCall& gpu, const AttentionArgs& on_gpu) {
    cuda::LaunchFlashAttention(gpu.stream(), on_gpu, order);
  });
}

void Decode(DataType type, const AttentionArgs& args, SumOrder order) {
  const Tensor workspace =
      Make(DataType::kU8,
           {cuda::DecoderAttentionWorkspace(args.heads, args.context_lens.dim(0), order)});
  std::fill_n(static_cast<uint8_t*>(Tensor(workspace).raw()), workspace.bytes(), uint8_t{0});
  AttendOnGpu(type, args, [&](const GpuCall& gpu, const AttentionArgs& on_gpu) {
    cuda::LaunchDecoderAttention(gpu.stream(), on_gpu, gpu.In(workspace), order);
  });
}

constexpr HeadLayout kLayouts[] = {{9, 3, 64}, {4, 4, 96}, {16, 4, 128}, {20, 1, 128}, {34, 2, 64}};

// Rows that decode beside the last tokens of prompts.
TEST_F(FixedOrderTest, DecodeGivesTheBitsOfPrefill) {
  const std::vector<int32_t> lens = {1, 2, 64, 65, 127, 128, 129, 255, 256, 257, 513, 1030};
  const std::vector<int32_t> ones(lens.size(), 1);
  for (const DataType type : kTypes) {
    for (const HeadLayout& heads : kLayouts) {
      const PagedBatch batch(heads, lens, ones, 23, type);
      for (const int64_t window :
           {kNoWindow, int64_t{1}, int64_t{100}, int64_t{256}, int64_t{700}}) {
        const AttentionArgs args = batch.args(window);
        const Tensor decoded = Poisoned(args.out.shape());
        Flash(type, args, SumOrder::kFixed);
        Decode(type,
               {args.qkv, args.row_starts, args.context_lens, args.block_tables, heads, args.kv,
                decoded, window},
               SumOrder::kFixed);
        ASSERT_EQ(0, Differences(decoded, args.out))
            << Name(type) << ", heads " << heads.num_heads << " / " << heads.num_kv_heads << " x "
            << heads.head_dim << ", window " << window;
      }
    }
  }
}

// So the test above can fail.
TEST_F(FixedOrderTest, DecodeInTheFastestOrderHasOtherBits) {
  const PagedBatch prefill({32, 8, 128}, {2100}, {1}, 23, DataType::kBF16);
  Flash(DataType::kBF16, prefill.args(), SumOrder::kFastest);
  const PagedBatch decode({32, 8, 128}, {2100}, {1}, 23, DataType::kBF16);
  Decode(DataType::kBF16, decode.args(), SumOrder::kFastest);
  EXPECT_GT(Differences(decode.out(), prefill.out()), 0);
}

TEST_F(FixedOrderTest, ChunksGiveTheBitsOfTheWhole) {
  const int32_t length = 900;
  for (const DataType type : kTypes) {
    for (const HeadLayout& heads : {HeadLayout{6, 2, 64}, HeadLayout{2, 2, 96}, {2, 1, 128}}) {
      for (const int64_t window : {kNoWindow, int64_t{300}}) {
        const PagedBatch whole(heads, {length}, {length}, 5, type);
        Flash(type, whole.args(window), SumOrder::kFixed);
        for (const int32_t chunk : {1, 7, 64, 300}) {
          const PagedBatch part(heads, {length}, {length}, 5, type);
          const AttentionArgs all = part.args();
          const int32_t step = chunk < 64 ? 89 : chunk;  // of small ones a sample
          for (int32_t begin = 0; begin < length; begin += step) {
            const int32_t end = std::min(length, begin + chunk);
            std::vector<int32_t> starts = {0, end - begin};
            std::vector<int32_t> lens = {end};
            const Tensor out = Poisoned({end - begin, heads.q_size()});
            Flash(type,
                  {all.qkv.Slice(begin, end - begin), FromVector(starts), FromVector(lens),
                   all.block_tables, heads, all.kv, out, window},
                  SumOrder::kFixed);
            ASSERT_EQ(0, Differences(out, whole.out().Slice(begin, end - begin)))
                << Name(type) << " x " << heads.head_dim << ", chunk of " << chunk << " at "
                << begin << ", window " << window;
          }
        }
      }
    }
  }
}

// Alone, with others, with rows of padding.
TEST_F(FixedOrderTest, ARowThatDecodesHasTheSameBitsInAnyBatch) {
  std::vector<int32_t> lens;
  for (int32_t r = 0; r < 40; ++r) lens.push_back(1 + r * 137 % 900);
  const HeadLayout heads{16, 4, 128};
  const PagedBatch together(heads, lens, std::vector<int32_t>(lens.size(), 1), 23, DataType::kBF16);
  Decode(DataType::kBF16, together.args(), SumOrder::kFixed);
  const AttentionArgs all = together.args();
  for (int64_t r = 0; r < 40; r += 3) {
    const Tensor out = Poisoned({1, heads.q_size()});
    Decode(DataType::kBF16,
           {all.qkv.Slice(r, 1), all.row_starts, all.context_lens.Slice(r, 1),
            all.block_tables.Slice(r, 1), heads, all.kv, out},
           SumOrder::kFixed);
    ASSERT_EQ(0, Differences(out, together.out().Slice(r, 1))) << "row " << r;
  }
}

// Warps add up each other's segments; rings are refilled while others read theirs.
TEST_F(FixedOrderTest, DecodeHasTheSameBitsInEveryRun) {
  std::vector<int32_t> lens;
  for (int32_t r = 0; r < 12; ++r) lens.push_back(1 + r * 211 % 1100);
  const HeadLayout heads{8, 2, 128};
  const PagedBatch batch(heads, lens, std::vector<int32_t>(lens.size(), 1), 23, DataType::kBF16);
  const AttentionArgs args = batch.args();
  Tensor first;
  for (int run = 0; run < 40; ++run) {
    const Tensor out = Poisoned(args.out.shape());
    Decode(DataType::kBF16,
           {args.qkv, args.row_starts, args.context_lens, args.block_tables, heads, args.kv, out},
           SumOrder::kFixed);
    if (run == 0) first = out;
    ASSERT_EQ(0, Differences(out, first)) << "run " << run;
  }
}

// More segments than the workspace holds are dealt out by heads; with the window, over more pages
// than a warp has lanes, from the second page of a tile on. The rows are one sequence, so they
// write the same new position.
TEST_F(FixedOrderTest, ABatchOfMoreSegmentsThanTheWorkspaceHolds) {
  constexpr int64_t kRows = 48;
  const HeadLayout heads{128, 8, 128};
  const PagedBatch one(heads, {4000}, {1}, 23, DataType::kBF16);
  const AttentionArgs args = one.args();
  const auto repeat = [](const Tensor& tensor) {
    const Tensor many = Make(tensor.type(), {kRows, tensor.dim(1)});
    for (int64_t r = 0; r < kRows; ++r) {
      std::memcpy(Tensor(many.Slice(r, 1)).raw(), tensor.raw(),
                  static_cast<size_t>(tensor.bytes()));
    }
    return many;
  };
  std::vector<int32_t> lens(kRows, 4000);
  lens[5] = 0;  // padding
  for (const int64_t window : {kNoWindow, int64_t{2880}}) {
    Decode(DataType::kBF16, one.args(window), SumOrder::kFixed);
    const Tensor out = Poisoned({kRows, heads.q_size()});
    Decode(DataType::kBF16,
           {repeat(args.qkv), args.row_starts, FromVector(lens), repeat(args.block_tables), heads,
            args.kv, out, window},
           SumOrder::kFixed);
    for (int64_t r = 0; r < kRows; ++r) {
      if (r == 5) continue;
      ASSERT_EQ(0, Differences(out.Slice(r, 1), one.out())) << "row " << r << ", window " << window;
    }
  }
}

}  // namespace
}  // namespace penstock
