#include "core/kernels/rms_norm.h"

#include "tests/support/backends.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  if (backend == Backend::kCpu) return cpu::RmsNorm(Pool(), x, weight, eps, out);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchRmsNorm(gpu.stream(), gpu.In(x), gpu.In(weight), eps, gpu.Out(out));
  }
}

TEST(RmsNorm, MatchesFloat64) {
  for (const Target& target : Targets()) {
    for (int64_t hidden : {1, 15, 16, 17, 576, 4096, 13824}) {
      const int64_t tokens = 19;
      const Tensor x = As(target.type, Random({tokens, hidden}, 7, 3.0f));
      const Tensor weight = As(target.type, Random({hidden}, 8));
      const Tensor out = Poisoned({tokens, hidden}, target.type);
      const float eps = 1e-5f;
      RunOn(target.backend, x, weight, eps, out);

      const std::vector<float> in = ToVector(x);
      const std::vector<float> gain = ToVector(weight);
      std::vector<double> reference;
      for (int64_t t = 0; t < tokens; ++t) {
        double squares = 0;
        for (int64_t i = 0; i < hidden; ++i) {
          const double value = in[static_cast<size_t>(t * hidden + i)];
          squares += value * value;
        }
        const double scale = 1.0 / std::sqrt(squares / static_cast<double>(hidden) + eps);
        for (int64_t i = 0; i < hidden; ++i) {
          reference.push_back(in[static_cast<size_t>(t * hidden + i)] * scale *
                              gain[static_cast<size_t>(i)]);
        }
      }
      EXPECT_LE(RelativeError(out, reference), Tolerance(target.type))
          << target << ", hidden " << hidden;
    }
  }
}

TEST(RmsNorm, InPlaceAndRowsAreIndependent) {
  for (const Target& target : Targets()) {
    const Tensor x = As(target.type, Random({40, 64}, 3));
    const Tensor weight = As(target.type, Random({64}, 4));
    const Tensor all = Poisoned({40, 64}, target.type);
    RunOn(target.backend, x, weight, 1e-6f, all);
    RunOn(target.backend, x.Slice(21, 1), weight, 1e-6f, x.Slice(21, 1));
    EXPECT_EQ(ToVector(x.Slice(21, 1)), ToVector(all.Slice(21, 1))) << target;
  }
}

// Few rows go to larger blocks than many (cuda/norm_row.cuh).
TEST(RmsNorm, ARowHasTheSameBitsInABatchOfAnySize) {
  for (const Target& target : Targets()) {
    for (const int64_t hidden : {4096, 5000}) {
      const Tensor x = As(target.type, Random({600, hidden}, 5));
      const Tensor weight = As(target.type, Random({hidden}, 6));
      const Tensor all = Poisoned({600, hidden}, target.type);
      RunOn(target.backend, x, weight, 1e-6f, all);
      for (const int64_t rows : {1, 30}) {
        const Tensor few = Poisoned({rows, hidden}, target.type);
        RunOn(target.backend, x.Slice(570, rows), weight, 1e-6f, few);
        EXPECT_EQ(ToVector(few), ToVector(all.Slice(570, rows))) << target << " " << hidden;
      }
    }
  }
}

TEST(RmsNorm, AllZeroesStayFinite) {
  const Tensor x = Make(DataType::kF32, {1, 32});
  std::fill_n(static_cast<float*>(Tensor(x).raw()), 32, 0.0f);
  for (const Backend backend : Backends()) {
    const Tensor out = Poisoned({1, 32});
    RunOn(backend, x, Random({32}, 1), 1e-5f, out);
    for (float value : ToVector(out)) EXPECT_EQ(value, 0.0f);
  }
}

}  // namespace
}  // namespace penstock
