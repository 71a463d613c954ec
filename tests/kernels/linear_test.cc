#include "core/kernels/linear.h"

#include "core/tensor/dequantize.h"
#include "hwy/highway.h"
#include "tests/support/backends.h"

#ifdef PENSTOCK_CUDA
#include "cuda/blas.h"
#endif

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

Tensor RandomWeight(DataType type, const Shape& shape, uint32_t seed) {
  return Info(type).block > 1 ? RandomBlocks(type, shape, seed) : As(type, Random(shape, seed));
}

std::vector<double> Float64(const Tensor& x, const Tensor& weight) {
  const std::vector<float> in = ToVector(x);
  const auto features = static_cast<size_t>(x.dim(1));
  std::vector<double> out(static_cast<size_t>(x.dim(0) * weight.dim(0)));
  std::vector<float> row(features);
  for (int64_t n = 0; n < weight.dim(0); ++n) {
    Dequantize(weight.type(), weight.Slice(n, 1).raw(), x.dim(1), row.data());
    for (int64_t t = 0; t < x.dim(0); ++t) {
      double sum = 0;
      for (size_t k = 0; k < features; ++k) {
        sum += static_cast<double>(in[static_cast<size_t>(t) * features + k]) * row[k];
      }
      out[static_cast<size_t>(t * weight.dim(0) + n)] = sum;
    }
  }
  return out;
}

class LinearTest : public ::testing::TestWithParam<DataType> {
 protected:
  ~LinearTest() override { hwy::SetSupportedTargetsForTest(0); }
};

TEST_P(LinearTest, EveryInstructionSetMatchesFloat64) {
  struct Size {
    int64_t tokens, in, out;
  };
  for (const Size& size : {Size{1, 32, 1}, Size{1, 576, 70}, Size{2, 96, 5}, Size{7, 1536, 33},
                           Size{3, 64, 4}, Size{16, 160, 129}}) {
    const Tensor x = Random({size.tokens, size.in}, 11);
    const Tensor weight = RandomWeight(GetParam(), {size.out, size.in}, 12);
    const std::vector<double> reference = Float64(x, weight);
    const Tensor plain = Poisoned({size.tokens, size.out});
    cpu::LinearReference(Pool(), x, weight, plain);
    EXPECT_LE(RelativeError(plain, reference), kFloatTolerance);
    hwy::SetSupportedTargetsForTest(0);
    for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      const Tensor out = Poisoned({size.tokens, size.out});
      cpu::Linear(Pool(), x, weight, out);
      EXPECT_LE(RelativeError(out, reference), kFloatTolerance)
          << hwy::TargetName(target) << ", " << size.tokens << " x " << size.in << " x "
          << size.out;
    }
  }
}

// To the bit what a product of its own and a sum would be.
TEST_P(LinearTest, AddsToWhatIsThere) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (const int64_t tokens : {1, 3, 19}) {
      const Tensor x = Random({tokens, 96}, 11);
      const Tensor weight = RandomWeight(GetParam(), {37, 96}, 12);
      const Tensor product = Poisoned({tokens, 37});
      cpu::Linear(Pool(), x, weight, product);
      const Tensor sum = Random({tokens, 37}, 13);
      std::vector<float> expected = ToVector(sum);
      const std::vector<float> added = ToVector(product);
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += added[i];
      cpu::LinearAdd(Pool(), x, weight, sum);
      ASSERT_EQ(ToVector(sum), expected) << hwy::TargetName(target) << ", " << tokens;
    }
  }
}

// The rule that batches rest on: a token's result has the same bits in any batch and with any
// number of threads.
TEST_P(LinearTest, ATokenHasTheSameBitsInAnyBatch) {
  const int64_t in = 576;
  const int64_t out_features = 131;
  const Tensor x = Random({33, in}, 21);
  const Tensor weight = RandomWeight(GetParam(), {out_features, in}, 22);
  const Tensor all = Poisoned({33, out_features});
  ThreadPool one(1);
  cpu::Linear(one, x, weight, all);
  for (int64_t batch : {1, 2, 3, 4, 5, 8, 32}) {
    for (int64_t first = 0; first + batch <= 33; first += batch) {
      const Tensor out = Poisoned({batch, out_features});
      cpu::Linear(Pool(), x.Slice(first, batch), weight, out);
      ASSERT_EQ(ToVector(out), ToVector(all.Slice(first, batch))) << batch << " from " << first;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, LinearTest,
                         ::testing::Values(DataType::kF32, DataType::kF16, DataType::kBF16,
                                           DataType::kQ4_1, DataType::kQ8_0),
                         [](const auto& info) { return std::string(Name(info.param)); });

#ifdef PENSTOCK_CUDA

// On the GPU weights have x's type; out has it too, or f32.
void RunOnGpu(const Tensor& x, const Tensor& weight, const Tensor& out) {
  const GpuCall gpu;
  cuda::LaunchLinear(gpu.blas(), gpu.stream(), gpu.In(x), gpu.In(weight), gpu.Out(out));
}

class LinearGpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!GpuCall::Available()) GTEST_SKIP();
  }
};

TEST_F(LinearGpuTest, MatchesFloat64) {
  struct Size {
    int64_t tokens, in, out;
  };
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    for (const Size& size :
         {Size{1, 32, 1}, Size{1, 576, 70}, Size{2, 97, 5}, Size{7, 1536, 33}, Size{3, 64, 48},
          Size{8, 576, 960}, Size{16, 160, 144}, Size{17, 576, 1536}, Size{12, 9216, 64},
          Size{129, 47, 3}, Size{300, 1536, 576}}) {
      const Tensor x = As(type, Random({size.tokens, size.in}, 11));
      const Tensor weight = As(type, Random({size.out, size.in}, 12));
      const std::vector<double> reference = Float64(x, weight);
      for (const DataType out_type : {type, DataType::kF32}) {
        const Tensor out = Poisoned({size.tokens, size.out}, out_type);
        RunOnGpu(x, weight, out);
        EXPECT_LE(RelativeError(out, reference), Tolerance(out_type))
            << Name(type) << " to " << Name(out_type) << ", " << size.tokens << " x " << size.in
            << " x " << size.out;
      }
    }
  }
}

// A residual sum: f32 beside any type of activations, by way of every kernel that linear has.
TEST_F(LinearGpuTest, AddsToWhatIsThere) {
  struct Size {
    int64_t tokens, in, out;
  };
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    for (const auto order : {cuda::SumOrder::kFastest, cuda::SumOrder::kFixed}) {
      for (const Size& size : {Size{1, 576, 576}, Size{2, 97, 5}, Size{8, 1536, 592},
                               Size{13, 4128, 48}, Size{17, 576, 1536}, Size{300, 1536, 576}}) {
        const Tensor x = As(type, Random({size.tokens, size.in}, 11));
        const Tensor weight = As(type, Random({size.out, size.in}, 12));
        const Tensor before = Random({size.tokens, size.out}, 13, 30.0f);
        std::vector<double> reference = Float64(x, weight);
        std::vector<float> there = ToVector(before);
        for (size_t i = 0; i < reference.size(); ++i) reference[i] += double{there[i]};
        const Tensor sum = FromVector(there).Reshape({size.tokens, size.out});
        {
          cuda::Blas blas;
          blas.set_sum_order(order);
          const GpuCall gpu;
          cuda::LaunchLinearAdd(blas, gpu.stream(), gpu.In(x), gpu.In(weight), gpu.Out(sum));
        }
        EXPECT_LE(RelativeError(sum, reference), Tolerance(DataType::kF32))
            << Name(type) << ", " << size.tokens << " x " << size.in << " x " << size.out;
      }
    }
  }
}

// Algorithms are kept for ranges of numbers of tokens: each must do for all of its range.
TEST_F(LinearGpuTest, EveryNumberOfTokens) {
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    const Tensor weight = As(type, Random({200, 192}, 12));
    const Tensor all = As(type, Random({260, 192}, 11));
    const std::vector<double> reference = Float64(all, weight);
    for (int64_t tokens = 1; tokens <= 260; tokens += tokens < 70 ? 1 : 7) {
      const Tensor out = Poisoned({tokens, 200}, type);
      RunOnGpu(all.Slice(0, tokens), weight, out);
      const std::vector<double> first(reference.begin(), reference.begin() + tokens * 200);
      ASSERT_LE(RelativeError(out, first), Tolerance(type)) << Name(type) << ", " << tokens;
    }
  }
}

// A packed weight of several element types is several products into columns of one tensor.
TEST_F(LinearGpuTest, ColumnsOfAWiderTensor) {
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    for (const int64_t tokens : {1, 9, 40}) {
      const Tensor x = As(type, Random({tokens, 64}, 1));
      const Tensor upper = As(type, Random({33, 64}, 2));
      const Tensor lower = As(type, Random({48, 64}, 3));
      const Tensor out = Poisoned({tokens, 81}, type);
      {
        const GpuCall gpu;
        const Tensor there = gpu.Out(out);
        const Tensor in = gpu.In(x);
        cuda::LaunchLinear(gpu.blas(), gpu.stream(), in, gpu.In(upper), there.Columns(0, 33));
        cuda::LaunchLinear(gpu.blas(), gpu.stream(), in, gpu.In(lower), there.Columns(33, 48));
      }
      const std::vector<double> first = Float64(x, upper);
      const std::vector<double> second = Float64(x, lower);
      std::vector<double> reference;
      for (int64_t t = 0; t < tokens; ++t) {
        reference.insert(reference.end(), first.begin() + t * 33, first.begin() + (t + 1) * 33);
        reference.insert(reference.end(), second.begin() + t * 48, second.begin() + (t + 1) * 48);
      }
      EXPECT_LE(RelativeError(out, reference), Tolerance(type)) << Name(type) << ", " << tokens;
    }
  }
}

TEST_F(LinearGpuTest, NanReachesItsRowOnly) {
  Tensor x = Random({4, 64}, 41);
  static_cast<float*>(x.raw())[64 * 2 + 5] = std::nanf("");
  const Tensor weight = Random({9, 64}, 42);
  const Tensor out = Poisoned({4, 9});
  RunOnGpu(x, weight, out);
  const std::vector<float> values = ToVector(out);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(std::isnan(values[i]), i / 9 == 2) << i;
}

#endif  // PENSTOCK_CUDA

TEST(Linear, EveryQuantizationMatchesFloat64) {
  for (const DataType type : {DataType::kQ4_0, DataType::kQ4_1, DataType::kQ5_0, DataType::kQ5_1,
                              DataType::kQ8_0, DataType::kQ4_K, DataType::kQ5_K, DataType::kQ6_K}) {
    const Tensor weight = RandomBlocks(type, {9, 512}, 12);
    for (const int64_t tokens : {1, 7}) {
      const Tensor x = Random({tokens, 512}, 11);
      const Tensor out = Poisoned({tokens, 9});
      cpu::Linear(Pool(), x, weight, out);
      EXPECT_LE(RelativeError(out, Float64(x, weight)), kFloatTolerance) << Name(type);
    }
  }
}

TEST(Linear, OddWidthsOfPlainTypes) {
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    for (int64_t in : {1, 15, 31, 33, 47, 100}) {
      const Tensor x = Random({5, in}, 31);
      const Tensor weight = As(type, Random({6, in}, 32));
      const Tensor out = Poisoned({5, 6});
      cpu::Linear(Pool(), x, weight, out);
      EXPECT_LE(RelativeError(out, Float64(x, weight)), kFloatTolerance) << Name(type) << in;
    }
  }
}

// Every finite 16-bit pattern, subnormals included: times one and a sum of zeroes is the value.
TEST(Linear, EveryValueOfThe16BitTypesIsExact) {
  constexpr int64_t kColumns = 64;
  const Tensor units = Make(DataType::kF32, {kColumns, kColumns});
  auto* unit = static_cast<float*>(Tensor(units).raw());
  std::fill_n(unit, kColumns * kColumns, 0.0f);
  for (int64_t i = 0; i < kColumns; ++i) unit[i * kColumns + i] = 1.0f;
  for (const DataType type : {DataType::kF16, DataType::kBF16}) {
    for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      for (uint32_t first = 0; first < 0x10000; first += kColumns) {
        const Tensor weight = Make(type, {1, kColumns});
        auto* bits = static_cast<uint16_t*>(Tensor(weight).raw());
        for (int64_t i = 0; i < kColumns; ++i) {
          bits[i] = static_cast<uint16_t>(first + static_cast<uint32_t>(i));
        }
        std::vector<float> expected(kColumns);
        Dequantize(type, weight.raw(), kColumns, expected.data());
        if (!std::all_of(expected.begin(), expected.end(),
                         [](float x) { return std::isfinite(x); })) {
          continue;
        }
        const Tensor out = Poisoned({kColumns, 1});
        cpu::Linear(Pool(), units, weight, out);
        ASSERT_EQ(ToVector(out), expected) << hwy::TargetName(target) << " " << first;
      }
    }
    hwy::SetSupportedTargetsForTest(0);
  }
}

TEST(Linear, InfinityAndNanOfAWeightShow) {
  for (const DataType type : {DataType::kF16, DataType::kBF16}) {
    for (const float value : {INFINITY, -INFINITY, std::nanf("")}) {
      const Tensor values = Random({3, 64}, 42);
      static_cast<float*>(Tensor(values).raw())[64 + 7] = value;
      const Tensor out = Poisoned({1, 3});
      cpu::Linear(Pool(), Random({1, 64}, 41), As(type, values), out);
      const std::vector<float> got = ToVector(out);
      EXPECT_TRUE(std::isfinite(got[0]) && !std::isfinite(got[1]) && std::isfinite(got[2]));
    }
  }
}

TEST(Linear, NanReachesItsRowOnly) {
  Tensor x = Random({4, 64}, 41);
  static_cast<float*>(x.raw())[64 * 2 + 5] = std::nanf("");
  const Tensor weight = RandomBlocks(DataType::kQ4_1, {9, 64}, 42);
  const Tensor out = Poisoned({4, 9});
  cpu::Linear(Pool(), x, weight, out);
  const std::vector<float> values = ToVector(out);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(std::isnan(values[i]), i / 9 == 2) << i;
}

}  // namespace
}  // namespace penstock
