#include "core/kernels/fused_residual_norm.h"

#include "core/kernels/rms_norm.h"
#include "tests/support/backends.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& residual, const Tensor& x, const Tensor& bias,
           const Tensor& weight, float eps, const Tensor& out) {
  if (backend == Backend::kCpu)
    return cpu::FusedResidualNorm(Pool(), residual, x, bias, weight, eps, out);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchFusedResidualNorm(gpu.stream(), gpu.Out(residual), gpu.In(x),
                                  bias.empty() ? bias : gpu.In(bias), gpu.In(weight), eps,
                                  gpu.Out(out));
  }
}

void RunRmsNorm(Backend backend, const Tensor& x, const Tensor& weight, float eps,
                const Tensor& out) {
  if (backend == Backend::kCpu) return cpu::RmsNorm(Pool(), x, weight, eps, out);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchRmsNorm(gpu.stream(), gpu.In(x), gpu.In(weight), eps, gpu.Out(out));
  }
}

void CheckAgainstFloat64(const Target& target, int64_t hidden, bool with_bias,
                         DataType residual_type) {
  const int64_t tokens = 33;
  const Tensor residual = As(residual_type, Random({tokens, hidden}, 1));
  const Tensor x = As(target.type, Random({tokens, hidden}, 2));
  const Tensor bias = with_bias ? As(target.type, Random({hidden}, 3)) : Tensor();
  const Tensor weight = As(target.type, Random({hidden}, 4));
  const Tensor out = Poisoned({tokens, hidden}, target.type);
  const std::vector<float> before = ToVector(residual);
  const std::vector<float> added = ToVector(x);
  const std::vector<float> gain = ToVector(weight);
  const std::vector<float> shift =
      with_bias ? ToVector(bias) : std::vector<float>(static_cast<size_t>(hidden), 0.0f);
  RunOn(target.backend, residual, x, bias, weight, 1e-5f, out);

  std::vector<double> sums;
  std::vector<double> normed;
  for (int64_t t = 0; t < tokens; ++t) {
    double squares = 0;
    for (int64_t i = 0; i < hidden; ++i) {
      const auto at = static_cast<size_t>(t * hidden + i);
      sums.push_back(static_cast<double>(before[at]) + added[at] + shift[static_cast<size_t>(i)]);
      squares += sums[at] * sums[at];
    }
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(hidden) + 1e-5);
    for (int64_t i = 0; i < hidden; ++i) {
      normed.push_back(sums[static_cast<size_t>(t * hidden + i)] * scale *
                       gain[static_cast<size_t>(i)]);
    }
  }
  EXPECT_LE(RelativeError(residual, sums), Tolerance(residual_type)) << target << " " << hidden;
  EXPECT_LE(RelativeError(out, normed), Tolerance(target.type)) << target << " " << hidden;
}

TEST(FusedResidualNorm, MatchesFloat64) {
  for (const Target& target : Targets()) {
    for (const bool with_bias : {false, true}) {
      for (const int64_t hidden : {1, 100, 2056, 4096, 5120, 16384}) {
        CheckAgainstFloat64(target, hidden, with_bias, target.type);
        CheckAgainstFloat64(target, hidden, with_bias, DataType::kF32);
      }
    }
  }
}

// Few rows and many, of any length: a row has the same bits among them.
TEST(FusedResidualNorm, ARowHasTheSameBitsInABatchOfAnySize) {
  for (const Target& target : Targets()) {
    for (const DataType residual_type : {target.type, DataType::kF32}) {
      for (const int64_t hidden : {64, 2056, 4096, 5120}) {
        const int64_t tokens = 601;
        const Tensor many = As(residual_type, Random({tokens, hidden}, 1));
        const Tensor x = As(target.type, Random({tokens, hidden}, 2));
        const Tensor weight = As(target.type, Random({hidden}, 4));
        const Tensor few = As(residual_type, As(DataType::kF32, many.Slice(300, 3)));
        const Tensor out = Poisoned({tokens, hidden}, target.type);
        const Tensor few_out = Poisoned({3, hidden}, target.type);
        RunOn(target.backend, many, x, Tensor(), weight, 1e-5f, out);
        RunOn(target.backend, few, x.Slice(300, 3), Tensor(), weight, 1e-5f, few_out);
        EXPECT_EQ(ToVector(out.Slice(300, 3)), ToVector(few_out)) << target << " " << hidden;
        EXPECT_EQ(ToVector(many.Slice(300, 3)), ToVector(few)) << target << " " << hidden;
      }
    }
  }
}

// What the next layer reads and what was normalised are the same numbers.
TEST(FusedResidualNorm, NormsTheResidualAsItIsStored) {
  for (const Target& target : Targets()) {
    for (const DataType residual_type : {target.type, DataType::kF32}) {
      const Tensor residual = As(residual_type, Random({5, 96}, 1));
      const Tensor weight = As(target.type, Random({96}, 3));
      const Tensor out = Poisoned({5, 96}, target.type);
      RunOn(target.backend, residual, As(target.type, Random({5, 96}, 2)), Tensor(), weight, 1e-5f,
            out);
      const Tensor again = Poisoned({5, 96}, target.type);
      RunRmsNorm(target.backend, residual, weight, 1e-5f, again);
      EXPECT_EQ(ToVector(out), ToVector(again)) << target << ", residual " << Name(residual_type);
    }
  }
}

}  // namespace
}  // namespace penstock
