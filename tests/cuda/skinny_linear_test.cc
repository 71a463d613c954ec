#include "cuda/skinny_linear.h"

#include "cuda/kernels/launchers.h"
#include "tests/support/gpu.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr DataType kType = DataType::kBF16;

class SkinnyLinear : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!GpuCall::Available()) GTEST_SKIP();
  }
};

void Multiply(const Tensor& x, const Tensor& weight, const Tensor& out, const Tensor& next) {
  const GpuCall gpu;
  cuda::LaunchSkinnyLinear(gpu.stream(), gpu.In(x), gpu.In(weight), gpu.Out(out), false,
                           next.empty() ? next : gpu.In(next));
}

// One group of rows and more than there are blocks; k's below a stage of the ring, below and above
// what the registers hold, whole stages and parts of one.
TEST_F(SkinnyLinear, MatchesFloat64) {
  struct Size {
    int64_t out, in;
  };
  const Tensor next = As(kType, Random({48, 4096}, 9));
  for (const Size& size :
       {Size{16, 32}, Size{48, 96}, Size{272, 512}, Size{2608, 544}, Size{64, 4096}, Size{32, 4128},
        Size{48, 11008}, Size{64, 6144}, Size{4288, 4128}}) {
    for (const int64_t tokens : {1, 2, 7, 8, 9, 16}) {
      const Tensor x = As(kType, Random({tokens, size.in}, 1));
      const Tensor weight = As(kType, Random({size.out, size.in}, 2));
      const Tensor out = Poisoned({tokens, size.out}, kType);
      Multiply(x, weight, out, tokens % 2 == 0 ? next : Tensor());
      EXPECT_LE(RelativeError(out, ProductInFloat64(x, weight)), Tolerance(kType))
          << tokens << " x " << size.out << " x " << size.in;
      const Tensor exact = Poisoned({tokens, size.out});
      Multiply(x, weight, exact, Tensor());
      EXPECT_LE(RelativeError(exact, ProductInFloat64(x, weight)), Tolerance(DataType::kF32));
    }
  }
}

// One launch for the product and swiglu: their bits, and what float64 makes of it. Of 16 rows, the
// fewest, eight are gate's.
TEST_F(SkinnyLinear, GatedIsTheProductAndSwiglu) {
  struct Size {
    int64_t out, in;
  };
  for (const Size& size : {Size{8, 32}, Size{24, 96}, Size{136, 512}, Size{1304, 544},
                           Size{32, 4096}, Size{2200, 2048}, Size{16, 4128}, Size{24, 11008}}) {
    for (const int64_t tokens : {1, 2, 7, 8, 9, 16}) {
      const Tensor x = As(kType, Random({tokens, size.in}, 1));
      const Tensor weight = As(kType, Random({2 * size.out, size.in}, 2, 0.05f));
      const Tensor out = Poisoned({tokens, size.out}, kType);
      const Tensor gate_up = Poisoned({tokens, 2 * size.out}, kType);
      const Tensor apart = Poisoned({tokens, size.out}, kType);
      {
        const GpuCall gpu;
        const Tensor in = gpu.In(x);
        const Tensor rows = gpu.In(weight);
        cuda::LaunchSkinnyGated(gpu.stream(), in, rows, gpu.Out(out));
        cuda::LaunchSkinnyLinear(gpu.stream(), in, rows, gpu.Out(gate_up));
        cuda::LaunchSwiglu(gpu.stream(), gpu.Out(gate_up), gpu.Out(apart));
      }
      EXPECT_EQ(ToVector(out), ToVector(apart)) << tokens << " x " << size.out << " x " << size.in;
      const std::vector<double> sums = ProductInFloat64(x, weight);
      std::vector<double> gated;
      const auto width = static_cast<size_t>(size.out);
      for (size_t t = 0; t < sums.size(); t += 2 * width) {
        for (size_t n = 0; n < width; ++n) {
          gated.push_back(sums[t + n] / (1 + std::exp(-sums[t + n])) * sums[t + width + n]);
        }
      }
      EXPECT_LE(RelativeError(out, gated), Tolerance(kType))
          << tokens << " x " << size.out << " x " << size.in;
    }
  }
}

// The sums as they are, for logits.
TEST_F(SkinnyLinear, SumsMayStayFloat) {
  for (const int64_t tokens : {1, 8, 11}) {
    const Tensor x = As(kType, Random({tokens, 576}, 1));
    const Tensor weight = As(kType, Random({2128, 576}, 2));
    const Tensor out = Poisoned({tokens, 2128});
    Multiply(x, weight, out, Tensor());
    EXPECT_LE(RelativeError(out, ProductInFloat64(x, weight)), kFloatTolerance) << tokens;
  }
}

TEST_F(SkinnyLinear, RowsMayBeStrided) {
  const Tensor wide_x = As(kType, Random({5, 256 + 64}, 1));
  const Tensor weight = As(kType, Random({96, 256}, 2));
  const Tensor wide_out = Poisoned({5, 96 + 32}, kType);
  Multiply(wide_x.Columns(0, 256), weight, wide_out.Columns(0, 96), Tensor());
  std::vector<float> x;
  std::vector<float> out;
  for (int64_t t = 0; t < 5; ++t) {
    const std::vector<float> in_row = ToVector(wide_x.Slice(t, 1));
    const std::vector<float> out_row = ToVector(wide_out.Slice(t, 1));
    x.insert(x.end(), in_row.begin(), in_row.begin() + 256);
    out.insert(out.end(), out_row.begin(), out_row.begin() + 96);
    for (size_t n = 96; n < out_row.size(); ++n) EXPECT_TRUE(std::isnan(out_row[n])) << n;
  }
  const Tensor dense_x = FromVector(x).Reshape({5, 256});
  EXPECT_LE(RelativeError(FromVector(out), ProductInFloat64(dense_x, weight)), Tolerance(kType));
}

// The same token has the same bits alone and beside others, run after run.
TEST_F(SkinnyLinear, ATokenDoesNotDependOnItsBatch) {
  const Tensor weight = As(kType, Random({4096, 4096}, 2));
  const Tensor x = As(kType, Random({8, 4096}, 1));
  const Tensor together = Poisoned({8, 4096}, kType);
  Multiply(x, weight, together, Tensor());
  for (int run = 0; run < 5; ++run) {
    const Tensor alone = Poisoned({1, 4096}, kType);
    Multiply(x.Slice(6, 1), weight, alone, Tensor());
    ASSERT_EQ(ToVector(alone), ToVector(together.Slice(6, 1)));
  }
}

// A slot of the ring was filled again while a slow warp still read from it: single rows came out
// wrong, and only where the ring had stood full for a while. Each product is compared with what it
// gave first, and that tightly with float64: few wrong rows are lost in a whole tensor's tolerance.
TEST_F(SkinnyLinear, RefillsNoSlotThatIsStillRead) {
  std::vector<Tensor> weights;
  std::vector<Tensor> first;
  const Tensor x = As(kType, Random({8, 4096}, 1));
  for (uint32_t i = 0; i < 4; ++i) weights.push_back(As(kType, Random({4096, 4096}, 10 + i)));
  for (int run = 0; run < 12; ++run) {
    std::vector<Tensor> outs;
    {
      const GpuCall gpu;
      for (const Tensor& weight : weights) {
        outs.push_back(Poisoned({8, 4096}, kType));
        gpu.In(weight);
        gpu.Out(outs.back());
      }
      for (size_t i = 0; i < weights.size(); ++i) {
        cuda::LaunchSkinnyLinear(gpu.stream(), gpu.In(x), gpu.In(weights[i]), gpu.Out(outs[i]));
      }
    }
    if (run == 0) first = outs;
    for (size_t i = 0; i < outs.size(); ++i) {
      ASSERT_EQ(ToVector(outs[i]), ToVector(first[i])) << "run " << run << " weight " << i;
    }
  }
  const std::vector<double> reference = ProductInFloat64(x, weights[0]);
  const std::vector<float> values = ToVector(first[0]);
  for (size_t i = 0; i < values.size(); ++i) {
    // Sums of 4096 products of standard normal numbers: 64 is their usual size.
    ASSERT_NEAR(values[i], reference[i], 1.0 + std::abs(reference[i]) / 100) << i;
  }
}

// What depends on what came before is read after it: a chain in one stream, without a wait between.
TEST_F(SkinnyLinear, WaitsForItsInput) {
  const Tensor first = As(kType, Random({4096, 512}, 2, 0.05f));
  const Tensor second = As(kType, Random({16, 4096}, 3));
  const Tensor x = As(kType, Random({4, 512}, 1));
  const Tensor middle = Poisoned({4, 4096}, kType);
  const Tensor out = Poisoned({4, 16}, kType);
  {
    const GpuCall gpu;
    const Tensor device_out = gpu.Out(out);  // copied there before the first launch
    const Tensor device_second = gpu.In(second);
    cuda::LaunchSkinnyLinear(gpu.stream(), gpu.In(x), gpu.In(first), gpu.Out(middle), false,
                             device_second);
    cuda::LaunchSkinnyLinear(gpu.stream(), gpu.In(middle), device_second, device_out);
  }
  EXPECT_LE(RelativeError(middle, ProductInFloat64(x, first)), Tolerance(kType));
  EXPECT_LE(RelativeError(out, ProductInFloat64(middle, second)), Tolerance(kType));
}

}  // namespace
}  // namespace penstock
