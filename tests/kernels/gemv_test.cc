#include "core/kernels/gemv.h"

#include "core/tensor/dequantize.h"
#include "hwy/highway.h"
#include "tests/support/backends.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& weight, const Tensor& x, const Tensor& y) {
  if (backend == Backend::kCpu) return cpu::Gemv(Pool(), weight, x, y);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchGemv(gpu.stream(), gpu.In(weight), gpu.In(x), gpu.Out(y));
  }
}

class GemvTest : public ::testing::TestWithParam<DataType> {
 protected:
  ~GemvTest() override { hwy::SetSupportedTargetsForTest(0); }
};

TEST_P(GemvTest, EveryInstructionSetMatchesFloat64) {
  struct Size {
    int64_t out, in;
  };
  for (const Size& size : {Size{1, 1}, Size{3, 15}, Size{17, 16}, Size{70, 63}, Size{5, 576},
                           Size{131, 1037}, Size{33, 4096}}) {
    const Tensor weight = As(GetParam(), Random({size.out, size.in}, 1));
    const Tensor x = Random({size.in}, 2);
    const std::vector<float> in = ToVector(x);
    std::vector<double> reference;
    std::vector<float> row(in.size());
    for (int64_t n = 0; n < size.out; ++n) {
      Dequantize(weight.type(), weight.Slice(n, 1).raw(), size.in, row.data());
      double sum = 0;
      for (size_t k = 0; k < row.size(); ++k) sum += static_cast<double>(row[k]) * in[k];
      reference.push_back(sum);
    }
    const Tensor plain = Poisoned({size.out});
    cpu::GemvReference(Pool(), weight, x, plain);
    EXPECT_LE(RelativeError(plain, reference), kFloatTolerance);
    for (const Backend backend : Backends()) {
      const Tensor out = Poisoned({size.out});
      RunOn(backend, weight, x, out);
      EXPECT_LE(RelativeError(out, reference), kFloatTolerance)
          << Target{backend, GetParam()} << ", " << size.out << " x " << size.in;
    }
    for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      const Tensor out = Poisoned({size.out});
      cpu::Gemv(Pool(), weight, x, out);
      EXPECT_LE(RelativeError(out, reference), kFloatTolerance)
          << hwy::TargetName(target) << ", " << size.out << " x " << size.in;
    }
    hwy::SetSupportedTargetsForTest(0);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GemvTest,
                         ::testing::Values(DataType::kF32, DataType::kF16, DataType::kBF16),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST(Gemv, ThreadsChangeNoBit) {
  const Tensor weight = Random({333, 257}, 3);
  const Tensor x = Random({257}, 4);
  const Tensor two = Poisoned({333});
  const Tensor alone = Poisoned({333});
  ThreadPool one(1);
  cpu::Gemv(Pool(), weight, x, two);
  cpu::Gemv(one, weight, x, alone);
  EXPECT_EQ(ToVector(two), ToVector(alone));
}

TEST(GemvDeathTest, RefusesAVectorOfAnotherLength) {
  EXPECT_DEATH(cpu::Gemv(Pool(), Random({4, 5}, 1), Random({4}, 2), Poisoned({4})),
               "weight.dim\\(1\\)");
}

}  // namespace
}  // namespace penstock
