#include "cuda/batch_linear.h"

#include <map>

#include "tests/support/gpu.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr DataType kType = DataType::kBF16;

class BatchLinear : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!GpuCall::Available()) GTEST_SKIP();
  }
};

std::vector<double> Float64(const Tensor& x, const Tensor& weight) {
  const std::vector<float> in = ToVector(x);
  const std::vector<float> rows = ToVector(weight);
  const auto features = static_cast<size_t>(weight.dim(1));
  std::vector<double> out;
  for (size_t t = 0; t < in.size(); t += features) {
    for (size_t n = 0; n < rows.size(); n += features) {
      double sum = 0;
      for (size_t k = 0; k < features; ++k) sum += double{in[t + k]} * rows[n + k];
      out.push_back(sum);
    }
  }
  return out;
}

void Multiply(const Tensor& x, const Tensor& weight, const Tensor& out,
              const cuda::BatchPlan& plan) {
  const GpuCall gpu;
  cuda::LaunchBatchLinear(gpu.stream(), gpu.In(x), gpu.In(weight), gpu.Out(out), plan);
}

std::vector<cuda::BatchPlan> Plans(int64_t tokens, int64_t out_features) {
  std::vector<cuda::BatchPlan> plans;
  for (const int rows : cuda::kBatchRows) {
    for (const int split : {1, 2, 4}) {
      for (const int sharers : {1, 2, 4}) {
        for (const int burst : {1, 2, 4}) {
          const cuda::BatchPlan plan = {rows, split, sharers, burst};
          if (cuda::IsBatchPlan(plan, tokens, out_features)) plans.push_back(plan);
        }
      }
    }
  }
  return plans;
}

std::string Text(const cuda::BatchPlan& plan) {
  return std::to_string(plan.rows) + " rows, split " + std::to_string(plan.split) + ", shared " +
         std::to_string(plan.sharers) + ", burst " + std::to_string(plan.burst);
}

// Every plan: rows that no tile ends with, tiles for fewer blocks than a cluster has and for more
// than there are; k's of less than a slab, of parts without any, of more than the ring holds. Each
// element is held tightly: few wrong rows are lost in a whole tensor's tolerance. And nothing but
// the split of k changes a bit.
TEST_F(BatchLinear, EveryPlanMatchesFloat64) {
  struct Size {
    int64_t tokens, out, in;
  };
  for (const Size& size :
       {Size{1, 8, 8}, Size{9, 200, 72}, Size{16, 4096, 136}, Size{17, 520, 2056}, Size{33, 72, 64},
        Size{64, 264, 1024}, Size{65, 96, 576}, Size{100, 344, 4096}, Size{128, 304, 1536},
        Size{24, 36000, 64}}) {
    const Tensor x = As(kType, Random({size.tokens, size.in}, 1));
    const Tensor weight = As(kType, Random({size.out, size.in}, 2));
    const std::vector<double> reference = Float64(x, weight);
    const double usual = std::sqrt(static_cast<double>(size.in));
    const std::vector<cuda::BatchPlan> plans = Plans(size.tokens, size.out);
    ASSERT_FALSE(plans.empty());
    std::map<int, std::vector<float>> of_split;
    for (const cuda::BatchPlan& plan : plans) {
      const Tensor out = Poisoned({size.tokens, size.out}, kType);
      Multiply(x, weight, out, plan);
      const std::vector<float> values = ToVector(out);
      size_t wrong = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        const double error = std::abs(values[i] - reference[i]);
        const bool near = error <= 0.01 * usual + 0.01 * std::abs(reference[i]);
        wrong += near ? 0 : 1;  // NaN counts
      }
      const std::string what = std::to_string(size.tokens) + " x " + std::to_string(size.out) +
                               " x " + std::to_string(size.in) + ", " + Text(plan);
      ASSERT_EQ(wrong, 0) << what;
      const auto [first, is_first] = of_split.try_emplace(plan.split, values);
      ASSERT_TRUE(values == first->second) << what;
    }
  }
}

TEST_F(BatchLinear, RowsMayBeStrided) {
  const Tensor wide_x = As(kType, Random({20, 256 + 64}, 1));
  const Tensor weight = As(kType, Random({96, 256}, 2));
  std::vector<float> x;
  for (int64_t t = 0; t < 20; ++t) {
    const std::vector<float> row = ToVector(wide_x.Slice(t, 1));
    x.insert(x.end(), row.begin(), row.begin() + 256);
  }
  const std::vector<double> reference = Float64(FromVector(x).Reshape({20, 256}), weight);
  for (const cuda::BatchPlan& plan : Plans(20, 96)) {
    const Tensor wide_out = Poisoned({20, 96 + 32}, kType);
    Multiply(wide_x.Columns(0, 256), weight, wide_out.Columns(0, 96), plan);
    std::vector<float> out;
    for (int64_t t = 0; t < 20; ++t) {
      const std::vector<float> row = ToVector(wide_out.Slice(t, 1));
      out.insert(out.end(), row.begin(), row.begin() + 96);
      for (size_t n = 96; n < row.size(); ++n) EXPECT_TRUE(std::isnan(row[n])) << n;
    }
    EXPECT_LE(RelativeError(FromVector(out), reference), Tolerance(kType)) << Text(plan);
  }
}

// A chain in one stream, without a wait between: what depends on what came before is read after it,
// slots are not filled while they are read, and the same products have the same bits run after run.
TEST_F(BatchLinear, ChainsHaveTheSameBits) {
  for (const int64_t tokens : {16, 64, 128}) {
    const Tensor x = As(kType, Random({tokens, 1024}, 1));
    const Tensor up = As(kType, Random({4096, 1024}, 2, 0.05f));
    const Tensor down = As(kType, Random({1024, 4096}, 3, 0.05f));
    std::vector<float> first;
    for (int run = 0; run < 8; ++run) {
      const Tensor middle = Poisoned({tokens, 4096}, kType);
      const Tensor out = Poisoned({tokens, 1024}, kType);
      {
        const GpuCall gpu;
        const Tensor to = gpu.Out(out);
        const Tensor between = gpu.Out(middle);
        const Tensor second = gpu.In(down);
        const Tensor from = gpu.In(x);
        const Tensor weight = gpu.In(up);
        cuda::LaunchBatchLinear(gpu.stream(), from, weight, between);
        cuda::LaunchBatchLinear(gpu.stream(), between, second, to);
      }
      if (run == 0) {
        first = ToVector(out);
        EXPECT_LE(RelativeError(middle, Float64(x, up)), Tolerance(kType)) << tokens;
        EXPECT_LE(RelativeError(out, Float64(middle, down)), Tolerance(kType)) << tokens;
      }
      ASSERT_TRUE(ToVector(out) == first) << tokens << ", run " << run;
    }
  }
}

// A token's row does not depend on what stands in the others.
TEST_F(BatchLinear, NanReachesItsRowOnly) {
  Tensor x = Random({70, 256}, 41);
  static_cast<float*>(x.raw())[256 * 2 + 5] = std::nanf("");
  const Tensor weight = As(kType, Random({96, 256}, 42));
  const Tensor in = As(kType, x);
  for (const cuda::BatchPlan& plan : Plans(70, 96)) {
    const Tensor out = Poisoned({70, 96}, kType);
    Multiply(in, weight, out, plan);
    const std::vector<float> values = ToVector(out);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(std::isnan(values[i]), i / 96 == 2) << i;
  }
}

}  // namespace
}  // namespace penstock
