#include "core/kernels/batched_gemm.h"

#include "hwy/highway.h"
#include "tests/support/backends.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& a, const Tensor& b, bool transpose_b, float alpha,
           const Tensor& c) {
  if (backend == Backend::kCpu) return cpu::BatchedGemm(Pool(), a, b, transpose_b, alpha, c);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchBatchedGemm(gpu.blas(), gpu.stream(), gpu.In(a), gpu.In(b), transpose_b, alpha,
                            gpu.Out(c));
  }
}

struct Size {
  int64_t m, n, k;
};

Tensor Right(int64_t batch, const Size& size, bool transpose_b, uint32_t seed) {
  return Random(transpose_b ? Shape({2, batch, size.n, size.k}) : Shape({2, batch, size.k, size.n}),
                seed);
}

std::vector<double> Float64(const Tensor& a, const Tensor& b, bool transpose_b, double alpha,
                            const Size& size) {
  const std::vector<float> left = ToVector(a);
  const std::vector<float> right = ToVector(b);
  std::vector<double> out;
  const int64_t count = a.num_elements() / (size.m * size.k);
  for (int64_t row = 0; row < count * size.m; ++row) {
    const float* matrix = right.data() + row / size.m * size.k * size.n;
    for (int64_t j = 0; j < size.n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < size.k; ++k) {
        sum += static_cast<double>(left[static_cast<size_t>(row * size.k + k)]) *
               matrix[transpose_b ? j * size.k + k : k * size.n + j];
      }
      out.push_back(alpha * sum);
    }
  }
  return out;
}

TEST(BatchedGemm, EveryInstructionSetMatchesFloat64) {
  const int64_t batch = 3;
  for (bool transpose_b : {false, true}) {
    for (const Size& size : {Size{1, 1, 1}, Size{5, 7, 3}, Size{6, 32, 64}, Size{13, 65, 20},
                             Size{250, 67, 9}, Size{64, 33, 129}}) {
      const Tensor a = Random({2, batch, size.m, size.k}, 1);
      const Tensor b = Right(batch, size, transpose_b, 2);
      const Shape shape({2, batch, size.m, size.n});
      const float alpha = 0.75f;
      const std::vector<double> reference = Float64(a, b, transpose_b, double{alpha}, size);
      const Tensor plain = Poisoned(shape);
      cpu::BatchedGemmReference(Pool(), a, b, transpose_b, alpha, plain);
      EXPECT_LE(RelativeError(plain, reference), kFloatTolerance);
      for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
        hwy::SetSupportedTargetsForTest(target);
        const Tensor out = Poisoned(shape);
        cpu::BatchedGemm(Pool(), a, b, transpose_b, alpha, out);
        EXPECT_LE(RelativeError(out, reference), kFloatTolerance)
            << hwy::TargetName(target) << ", " << size.m << " x " << size.n << " x " << size.k
            << (transpose_b ? " transposed" : "");
      }
      hwy::SetSupportedTargetsForTest(0);
    }
  }
}

TEST(BatchedGemm, EveryTargetMatchesFloat64) {
  for (const Target& target : Targets()) {
    for (const bool transpose_b : {false, true}) {
      for (const Size& size : {Size{1, 1, 1}, Size{5, 7, 3}, Size{13, 65, 20}, Size{64, 33, 129},
                               Size{128, 256, 64}}) {
        const Tensor a = As(target.type, Random({2, 3, size.m, size.k}, 1));
        const Tensor b = As(target.type, Right(3, size, transpose_b, 2));
        const Tensor out = Poisoned({2, 3, size.m, size.n}, target.type);
        RunOn(target.backend, a, b, transpose_b, 0.75f, out);
        EXPECT_LE(RelativeError(out, Float64(a, b, transpose_b, 0.75, size)),
                  Tolerance(target.type))
            << target << ", " << size.m << " x " << size.n << " x " << size.k
            << (transpose_b ? " transposed" : "");
      }
    }
  }
}

// A row of A gives the same bits beside any other rows and with zeros behind its depth.
TEST(BatchedGemm, ARowHasTheSameBitsInAnyProduct) {
  const Size size{30, 70, 50};
  const Tensor a = Random({1, size.m, size.k}, 3);
  const Tensor b = Random({1, size.k, size.n}, 4);
  const Tensor all = Poisoned({1, size.m, size.n});
  cpu::BatchedGemm(Pool(), a, b, false, 1.0f, all);

  const int64_t row = 17;
  const int64_t deep = 83;
  std::vector<float> padded(static_cast<size_t>(deep));
  std::copy_n(static_cast<const float*>(a.raw()) + row * size.k, size.k, padded.begin());
  std::vector<float> under(static_cast<size_t>(deep * size.n));
  const std::vector<float> right = ToVector(b);
  std::copy(right.begin(), right.end(), under.begin());
  const Tensor one = Poisoned({1, 1, size.n});
  ThreadPool single(1);
  cpu::BatchedGemm(single, FromVector(padded).Reshape({1, 1, deep}),
                   FromVector(under).Reshape({1, deep, size.n}), false, 1.0f, one);
  EXPECT_EQ(ToVector(one), ToVector(all.Reshape({size.m, size.n}).Slice(row, 1)));
}

TEST(BatchedGemm, NanStaysInItsRowAndMatrix) {
  Tensor a = Random({2, 8, 10}, 5);
  static_cast<float*>(a.raw())[10 * 3 + 1] = std::nanf("");
  for (const Backend backend : Backends()) {
    const Tensor out = Poisoned({2, 8, 9});
    RunOn(backend, a, Random({2, 10, 9}, 6), false, 1.0f, out);
    const std::vector<float> values = ToVector(out);
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(std::isnan(values[i]), i / 9 == 3) << i;
  }
}

TEST(BatchedGemmDeathTest, RefusesShapesThatDoNotFit) {
  const Tensor a = Random({2, 4, 5}, 1);
  const Tensor b = Random({2, 6, 5}, 2);
  EXPECT_DEATH(cpu::BatchedGemm(Pool(), a, b, false, 1.0f, Poisoned({2, 4, 5})),
               "a.dim\\(column\\)");
  EXPECT_DEATH(cpu::BatchedGemm(Pool(), a, b, true, 1.0f, Poisoned({1, 4, 6})), "a.dim\\(i\\)");
}

}  // namespace
}  // namespace penstock
