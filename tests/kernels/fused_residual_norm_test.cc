#include "core/kernels/fused_residual_norm.h"

#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void CheckAgainstFloat64(bool with_bias) {
  const int64_t tokens = 33;
  const int64_t hidden = 100;
  const Tensor residual = Random({tokens, hidden}, 1);
  const Tensor x = Random({tokens, hidden}, 2);
  const Tensor bias = with_bias ? Random({hidden}, 3) : Tensor();
  const Tensor weight = Random({hidden}, 4);
  const Tensor out = Poisoned({tokens, hidden});
  const std::vector<float> before = ToVector(residual);
  const std::vector<float> added = ToVector(x);
  const std::vector<float> gain = ToVector(weight);
  const std::vector<float> shift = with_bias ? ToVector(bias) : std::vector<float>(hidden, 0.0f);
  cpu::FusedResidualNorm(Pool(), residual, x, bias, weight, 1e-5f, out);

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
  EXPECT_LE(RelativeError(residual, sums), kFloatTolerance);
  EXPECT_LE(RelativeError(out, normed), kFloatTolerance);
}

TEST(FusedResidualNorm, MatchesFloat64) { CheckAgainstFloat64(false); }
TEST(FusedResidualNorm, MatchesFloat64WithBias) { CheckAgainstFloat64(true); }

}  // namespace
}  // namespace penstock
