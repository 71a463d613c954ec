#include "core/kernels/rms_norm.h"

#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

TEST(RmsNorm, MatchesFloat64) {
  for (int64_t hidden : {1, 15, 16, 17, 576, 4096}) {
    const int64_t tokens = 19;
    const Tensor x = Random({tokens, hidden}, 7, 3.0f);
    const Tensor weight = Random({hidden}, 8);
    const Tensor out = Poisoned({tokens, hidden});
    const float eps = 1e-5f;
    cpu::RmsNorm(Pool(), x, weight, eps, out);

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
    EXPECT_LE(RelativeError(out, reference), kFloatTolerance) << "hidden " << hidden;
  }
}

TEST(RmsNorm, InPlaceAndRowsAreIndependent) {
  const Tensor x = Random({40, 64}, 3);
  const Tensor weight = Random({64}, 4);
  const Tensor all = Poisoned({40, 64});
  cpu::RmsNorm(Pool(), x, weight, 1e-6f, all);
  cpu::RmsNorm(Pool(), x.Slice(21, 1), weight, 1e-6f, x.Slice(21, 1));
  EXPECT_EQ(ToVector(x.Slice(21, 1)), ToVector(all.Slice(21, 1)));
}

TEST(RmsNorm, AllZeroesStayFinite) {
  const Tensor x = Make(DataType::kF32, {1, 32});
  std::fill_n(static_cast<float*>(Tensor(x).raw()), 32, 0.0f);
  const Tensor out = Poisoned({1, 32});
  cpu::RmsNorm(Pool(), x, Random({32}, 1), 1e-5f, out);
  for (float value : ToVector(out)) EXPECT_EQ(value, 0.0f);
}

}  // namespace
}  // namespace penstock
