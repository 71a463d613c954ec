#include "cuda/skinny_chain.h"

#include <cstring>

#include "cuda/sum_chain.h"
#include "tests/support/gpu.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr DataType kType = DataType::kBF16;

class SkinnyChain : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!GpuCall::Available()) GTEST_SKIP();
  }
};

struct Size {
  int64_t tokens, in, out;
};

// Blocks of one group of rows, of several, of rounds of several; rows whose last stage is short.
TEST_F(SkinnyChain, HasTheBitsOfTheChain) {
  for (const Size& size :
       {Size{1, 32, 16}, Size{8, 544, 48}, Size{3, 512, 2112}, Size{5, 96, 4240},
        Size{1, 1536, 12000}, Size{8, 4096, 2128}, Size{7, 608, 30000}, Size{2, 14336, 2128}}) {
    const Tensor x = As(kType, Random({size.tokens, size.in}, 1));
    const Tensor weight = As(kType, Random({size.out, size.in}, 2));
    for (const DataType type : {kType, DataType::kF32}) {
      const Tensor chain = Poisoned({size.tokens, size.out}, type);
      const Tensor out = Poisoned({size.tokens, size.out}, type);
      ASSERT_TRUE(cuda::IsSkinnyChain(x, weight, out));
      {
        const GpuCall gpu;
        const Tensor there[] = {gpu.In(x), gpu.In(weight), gpu.Out(chain), gpu.Out(out)};
        cuda::LaunchChainLinear(gpu.stream(), there[0], there[1], there[2]);
        cuda::LaunchSkinnyChain(gpu.stream(), there[0], there[1], there[3]);
      }
      EXPECT_EQ(ToVector(out), ToVector(chain))
          << Name(type) << ", " << size.tokens << " x " << size.in << " x " << size.out;
    }
  }
}

// Products behind each other in one stream, each over blocks with rounds of several groups; the
// same bits in every run.
TEST_F(SkinnyChain, RefillsNoSlotThatIsStillRead) {
  std::vector<Tensor> weights;
  std::vector<Tensor> expected;
  const Tensor x = As(kType, Random({8, 1024}, 1));
  for (uint32_t i = 0; i < 4; ++i) weights.push_back(As(kType, Random({20000, 1024}, 10 + i)));
  for (int run = 0; run < 12; ++run) {
    std::vector<Tensor> outs;
    {
      const GpuCall gpu;
      std::vector<Tensor> there;
      for (const Tensor& weight : weights) {
        outs.push_back(Poisoned({8, 20000}, kType));
        gpu.In(weight);
        there.push_back(gpu.Out(outs.back()));
      }
      const Tensor in = gpu.In(x);
      for (size_t i = 0; i < weights.size(); ++i) {
        if (run == 0) {
          cuda::LaunchChainLinear(gpu.stream(), in, gpu.In(weights[i]), there[i]);
        } else {
          cuda::LaunchSkinnyChain(gpu.stream(), in, gpu.In(weights[i]), there[i]);
        }
      }
    }
    if (run == 0) expected = outs;
    for (size_t i = 0; i < outs.size(); ++i) {
      ASSERT_EQ(ToVector(outs[i]), ToVector(expected[i])) << "run " << run << " weight " << i;
    }
  }
}

// Warps that take turns at the ring's slots, at the rate of device memory: copies overtake each
// other.
TEST_F(SkinnyChain, AwaitsCopiesThatWereOvertaken) {
  const Tensor x = As(kType, Random({1, 4096}, 1));
  const Tensor few = As(kType, Random({64, 4096}, 2));
  // More rows of the same few, so that a block has rounds of several groups.
  const Tensor weight = Make(kType, {22016, 4096});
  for (int64_t n = 0; n < weight.dim(0); n += few.dim(0)) {
    std::memcpy(Tensor(weight).Slice(n, few.dim(0)).raw(), few.raw(),
                static_cast<size_t>(few.bytes()));
  }
  const Tensor chain = Poisoned({1, 64}, kType);
  const Tensor out = Poisoned({1, 22016}, kType);
  for (int run = 0; run < 20; ++run) {
    {
      const GpuCall gpu;
      cuda::LaunchChainLinear(gpu.stream(), gpu.In(x), gpu.In(few), gpu.Out(chain));
      cuda::LaunchSkinnyChain(gpu.stream(), gpu.In(x), gpu.In(weight), gpu.Out(out));
    }
    const std::vector<float> expected = ToVector(chain);
    const std::vector<float> got = ToVector(out);
    for (size_t n = 0; n < got.size(); ++n) ASSERT_EQ(got[n], expected[n % 64]) << run << " " << n;
  }
}

TEST_F(SkinnyChain, LeavesToOthersWhatItDoesNotTake) {
  const auto takes = [](int64_t tokens, int64_t in, int64_t out, DataType type) {
    return cuda::IsSkinnyChain(Make(type, {tokens, in}), Make(type, {out, in}),
                               Make(type, {tokens, out}));
  };
  EXPECT_TRUE(takes(8, 4096, 64, kType));
  EXPECT_FALSE(takes(9, 4096, 64, kType));
  EXPECT_FALSE(takes(3, 14336, 64, kType));  // x has no place
  EXPECT_FALSE(takes(1, 48, 64, kType));
  EXPECT_FALSE(takes(1, 64, 40, kType));
  EXPECT_FALSE(takes(1, 64, 64, DataType::kF16));
}

}  // namespace
}  // namespace penstock
