#include "core/kernels/swiglu.h"

#include "hwy/highway.h"
#include "tests/support/backends.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& gate_up, const Tensor& out) {
  if (backend == Backend::kCpu) return cpu::Swiglu(Pool(), gate_up, out);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchSwiglu(gpu.stream(), gpu.In(gate_up), gpu.Out(out));
  }
}

std::vector<double> Float64(const Tensor& gate_up, int64_t tokens, int64_t width) {
  const std::vector<float> in = ToVector(gate_up);
  std::vector<double> reference;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < width; ++i) {
      const double gate = in[static_cast<size_t>(t * 2 * width + i)];
      const double up = in[static_cast<size_t>(t * 2 * width + width + i)];
      reference.push_back(gate / (1.0 + std::exp(-gate)) * up);
    }
  }
  return reference;
}

TEST(Swiglu, EveryInstructionSetMatchesFloat64) {
  for (int64_t width : {1, 3, 8, 16, 17, 100, 1536}) {
    const int64_t tokens = 9;
    const Tensor gate_up = Random({tokens, 2 * width}, 2, 4.0f);
    const std::vector<double> reference = Float64(gate_up, tokens, width);
    const Tensor plain = Poisoned({tokens, width});
    cpu::SwigluReference(Pool(), gate_up, plain);
    EXPECT_LE(RelativeError(plain, reference), kFloatTolerance);
    for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      const Tensor out = Poisoned({tokens, width});
      cpu::Swiglu(Pool(), gate_up, out);
      EXPECT_LE(RelativeError(out, reference), kFloatTolerance)
          << hwy::TargetName(target) << " " << width;
    }
    hwy::SetSupportedTargetsForTest(0);
  }
}

TEST(Swiglu, EveryTargetMatchesFloat64) {
  for (const Target& target : Targets()) {
    for (int64_t width : {1, 8, 17, 100, 1536}) {
      const Tensor gate_up = As(target.type, Random({9, 2 * width}, 2, 4.0f));
      const Tensor out = Poisoned({9, width}, target.type);
      RunOn(target.backend, gate_up, out);
      EXPECT_LE(RelativeError(out, Float64(gate_up, 9, width)), Tolerance(target.type))
          << target << " " << width;
    }
  }
}

TEST(Swiglu, LargeGatesSaturateAndNanStays) {
  Tensor gate_up = Make(DataType::kF32, {1, 32});
  auto* values = static_cast<float*>(gate_up.raw());
  std::fill_n(values + 16, 16, 2.0f);
  std::fill_n(values, 16, 0.0f);
  values[0] = 200.0f;
  values[1] = -200.0f;
  values[2] = std::nanf("");
  for (const Backend backend : Backends()) {
    const Tensor out = Poisoned({1, 16});
    RunOn(backend, gate_up, out);
    const std::vector<float> result = ToVector(out);
    EXPECT_EQ(result[0], 400.0f);
    EXPECT_NEAR(result[1], 0.0f, 1e-30f);
    EXPECT_TRUE(std::isnan(result[2]));
    EXPECT_EQ(result[3], 0.0f);
  }
}

}  // namespace
}  // namespace penstock
