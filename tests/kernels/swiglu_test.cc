#include "core/kernels/swiglu.h"

#include "hwy/highway.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

TEST(Swiglu, EveryInstructionSetMatchesFloat64) {
  for (int64_t width : {1, 3, 8, 16, 17, 100, 1536}) {
    const int64_t tokens = 9;
    const Tensor gate_up = Random({tokens, 2 * width}, 2, 4.0f);
    const std::vector<float> in = ToVector(gate_up);
    std::vector<double> reference;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < width; ++i) {
        const double gate = in[static_cast<size_t>(t * 2 * width + i)];
        const double up = in[static_cast<size_t>(t * 2 * width + width + i)];
        reference.push_back(gate / (1.0 + std::exp(-gate)) * up);
      }
    }
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

TEST(Swiglu, LargeGatesSaturateAndNanStays) {
  Tensor gate_up = Make(DataType::kF32, {1, 32});
  auto* values = static_cast<float*>(gate_up.raw());
  std::fill_n(values + 16, 16, 2.0f);
  std::fill_n(values, 16, 0.0f);
  values[0] = 200.0f;
  values[1] = -200.0f;
  values[2] = std::nanf("");
  const Tensor out = Poisoned({1, 16});
  cpu::Swiglu(Pool(), gate_up, out);
  const std::vector<float> result = ToVector(out);
  EXPECT_EQ(result[0], 400.0f);
  EXPECT_NEAR(result[1], 0.0f, 1e-30f);
  EXPECT_TRUE(std::isnan(result[2]));
  EXPECT_EQ(result[3], 0.0f);
}

}  // namespace
}  // namespace penstock
