#include "core/kernels/sgemm.h"

#include "hwy/highway.h"
#include "tests/support/backends.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, float alpha, const Tensor& a, const Tensor& b, float beta,
           const Tensor& c) {
  if (backend == Backend::kCpu) return cpu::Sgemm(Pool(), alpha, a, b, beta, c);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchSgemm(gpu.stream(), alpha, gpu.In(a), gpu.In(b), beta, gpu.Out(c));
  }
}

TEST(Sgemm, EveryInstructionSetMatchesFloat64) {
  struct Size {
    int64_t m, n, k;
  };
  for (const Size& size : {Size{1, 1, 1}, Size{3, 5, 70}, Size{6, 64, 33}, Size{255, 97, 31},
                           Size{48, 129, 200}, Size{132, 260, 36}, Size{65, 132, 12}}) {
    const Tensor a = Random({size.m, size.k}, 1);
    const Tensor b = Random({size.k, size.n}, 2);
    const Tensor c = Random({size.m, size.n}, 3);
    const float alpha = -1.5f;
    const float beta = 0.25f;
    std::vector<double> reference;
    const std::vector<float> left = ToVector(a);
    const std::vector<float> right = ToVector(b);
    const std::vector<float> old = ToVector(c);
    for (int64_t i = 0; i < size.m; ++i) {
      for (int64_t j = 0; j < size.n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < size.k; ++k) {
          sum += static_cast<double>(left[static_cast<size_t>(i * size.k + k)]) *
                 right[static_cast<size_t>(k * size.n + j)];
        }
        reference.push_back(double{alpha} * sum +
                            double{beta} * old[static_cast<size_t>(i * size.n + j)]);
      }
    }
    const auto fresh = [&] {
      Tensor out = Make(DataType::kF32, c.shape());
      std::copy(old.begin(), old.end(), static_cast<float*>(out.raw()));
      return out;
    };
    const Tensor plain = fresh();
    cpu::SgemmReference(Pool(), alpha, a, b, beta, plain);
    EXPECT_LE(RelativeError(plain, reference), kFloatTolerance);
    for (const Backend backend : Backends()) {
      const Tensor out = fresh();
      RunOn(backend, alpha, a, b, beta, out);
      EXPECT_LE(RelativeError(out, reference), kFloatTolerance)
          << Target{backend, DataType::kF32} << ", " << size.m << " x " << size.n << " x "
          << size.k;
    }
    for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      const Tensor out = fresh();
      cpu::Sgemm(Pool(), alpha, a, b, beta, out);
      EXPECT_LE(RelativeError(out, reference), kFloatTolerance)
          << hwy::TargetName(target) << ", " << size.m << " x " << size.n << " x " << size.k;
    }
    hwy::SetSupportedTargetsForTest(0);
  }
}

// Whatever the size of the product.
TEST(Sgemm, AnElementDependsOnItsRowAndItsColumnAlone) {
  const Tensor a = Random({1664, 100}, 1);
  const Tensor b = Random({100, 2560}, 2);
  for (const Backend backend : Backends()) {
    const Tensor whole = Poisoned({1664, 2560});
    RunOn(backend, 1.0f, a, b, 0.0f, whole);
    const Tensor part = Poisoned({70, 2560});
    RunOn(backend, 1.0f, a.Slice(1500, 70), b, 0.0f, part);
    EXPECT_EQ(ToVector(part), ToVector(whole.Slice(1500, 70)));
  }
}

TEST(Sgemm, BetaZeroDoesNotReadC) {
  const Tensor a = Random({7, 9}, 1);
  const Tensor b = Random({9, 11}, 2);
  for (const auto& multiply : {&cpu::Sgemm, &cpu::SgemmReference}) {
    const Tensor out = Poisoned({7, 11});
    multiply(Pool(), 1.0f, a, b, 0.0f, out);
    for (float value : ToVector(out)) EXPECT_TRUE(std::isfinite(value));
  }
  for (const Backend backend : Backends()) {
    const Tensor out = Poisoned({7, 11});
    RunOn(backend, 1.0f, a, b, 0.0f, out);
    for (float value : ToVector(out)) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(SgemmDeathTest, RefusesShapesThatDoNotFit) {
  EXPECT_DEATH(
      cpu::Sgemm(Pool(), 1.0f, Random({2, 3}, 1), Random({4, 5}, 2), 0.0f, Poisoned({2, 5})),
      "b.dim\\(0\\)");
}

}  // namespace
}  // namespace penstock
