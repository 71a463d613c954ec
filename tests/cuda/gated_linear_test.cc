#include "cuda/gated_linear.h"

#include "core/kernels/linear.h"
#include "core/kernels/swiglu.h"
#include "cuda/blas.h"
#include "cuda/kernels/fused_launchers.h"
#include "cuda/kernels/launchers.h"
#include "cuda/sum_chain.h"
#include "tests/support/backends.h"
#include "tests/support/gpu.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)
using cuda::GatedPlan;

constexpr DataType kType = DataType::kBF16;

class GatedLinear : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!GpuCall::Available()) GTEST_SKIP();
  }
};

// Each number of rows, short rings and long ones.
std::vector<GatedPlan> Plans(int64_t tokens) {
  std::vector<GatedPlan> plans;
  for (const int rows : {112, 176, 192, 224}) {
    for (const int slots : {2, 3, 8}) plans.push_back({rows, slots});
  }
  std::erase_if(plans, [&](const GatedPlan& plan) { return !IsGatedPlan(plan, tokens); });
  return plans;
}

std::string Name(const GatedPlan& plan, const Tensor& out) {
  return absl::StrCat(out.dim(0), " tokens, ", out.dim(1), " wide, ", plan.rows, "/", plan.slots);
}

void Multiply(const Tensor& x, const Tensor& weight, const Tensor& out, const GatedPlan& plan) {
  const GpuCall gpu;
  cuda::LaunchGatedBatch(gpu.stream(), gpu.In(x), gpu.In(weight), gpu.Out(out), plan);
}

// The chain of sums by the kernel that spells it out, rounded, then swiglu's kernel.
Tensor Apart(const Tensor& x, const Tensor& weight) {
  const int64_t width = weight.dim(0) / 2;
  const Tensor gate_up = Poisoned({x.dim(0), 2 * width}, kType);
  const Tensor out = Poisoned({x.dim(0), width}, kType);
  const GpuCall gpu;
  cuda::LaunchChainLinear(gpu.stream(), gpu.In(x), gpu.In(weight), gpu.Out(gate_up));
  cuda::LaunchSwiglu(gpu.stream(), gpu.Out(gate_up), gpu.Out(out));
  return out;
}

std::vector<double> Float64(const Tensor& x, const Tensor& weight) {
  const std::vector<float> in = ToVector(x);
  const std::vector<float> rows = ToVector(weight);
  const auto features = static_cast<size_t>(weight.dim(1));
  const auto half = rows.size() / 2;
  std::vector<double> out;
  for (size_t t = 0; t < in.size(); t += features) {
    for (size_t n = 0; n < half; n += features) {
      double gate = 0;
      double up = 0;
      for (size_t k = 0; k < features; ++k) {
        gate += double{in[t + k]} * rows[n + k];
        up += double{in[t + k]} * rows[half + n + k];
      }
      out.push_back(gate / (1 + std::exp(-gate)) * up);
    }
  }
  return out;
}

// What a model calls: the kernel where its tiles fill the GPU, in both orders of sums, and not
// elsewhere.
TEST_F(GatedLinear, IsTakenWhereItsTilesFillTheGpu) {
  const Tensor weight = As(kType, Random({28672, 64}, 2, 0.05f));
  const Tensor few = As(kType, Random({2 * 1536, 64}, 3, 0.05f));
  for (const int64_t tokens : {16, 17, 48, 128, 200, 257}) {
    const Tensor x = As(kType, Random({tokens, 64}, 1));
    const Tensor out = Poisoned({tokens, 14336}, kType);
    const Tensor of_few = Poisoned({tokens, 1536}, kType);
    for (const auto order : {cuda::SumOrder::kFastest, cuda::SumOrder::kFixed}) {
      cuda::Blas blas;
      blas.set_sum_order(order);
      bool is_taken = false;
      {
        const GpuCall gpu;
        is_taken =
            cuda::LaunchGatedLinear(blas, gpu.stream(), gpu.In(x), gpu.In(weight), gpu.Out(out));
        if (tokens > 16) {
          EXPECT_FALSE(
              cuda::LaunchGatedLinear(blas, gpu.stream(), gpu.In(x), gpu.In(few), gpu.Out(of_few)));
        }
      }
      EXPECT_EQ(is_taken, tokens <= 16 ? order == cuda::SumOrder::kFastest : tokens <= 256);
      if (tokens > 16 && tokens <= 256) {
        ASSERT_EQ(ToVector(out), ToVector(Apart(x, weight))) << tokens;
      }
    }
  }
}

// Fewer rows than a tile, whole tiles, several rounds; k's of one slab and of odd numbers of them;
// tokens at both ends of each form.
TEST_F(GatedLinear, HasTheBitsOfTheChainAndSwiglu) {
  struct Size {
    int64_t width, in;
  };
  for (const Size& size :
       {Size{8, 64}, Size{96, 192}, Size{1000, 576}, Size{304, 4096}, Size{16000, 320}}) {
    const Tensor weight = As(kType, Random({2 * size.width, size.in}, 2, 0.05f));
    for (const int64_t tokens : {17, 33, 64, 65, 100, 128, 129, 200, 251, 256}) {
      const Tensor x = As(kType, Random({tokens, size.in}, 1));
      const Tensor apart = Apart(x, weight);
      for (const GatedPlan& plan : Plans(tokens)) {
        const Tensor out = Poisoned({tokens, size.width}, kType);
        Multiply(x, weight, out, plan);
        ASSERT_EQ(ToVector(out), ToVector(apart)) << Name(plan, out) << " of " << size.in;
      }
    }
  }
}

TEST_F(GatedLinear, MatchesFloat64AndTheCpu) {
  for (const int64_t tokens : {19, 77, 131}) {
    const Tensor x = As(kType, Random({tokens, 576}, 1));
    const Tensor weight = As(kType, Random({2 * 344, 576}, 2, 0.05f));
    const std::vector<double> reference = Float64(x, weight);
    const Tensor gate_up = Poisoned({tokens, 2 * 344});
    const Tensor of_cpu = Poisoned({tokens, 344});
    cpu::Linear(Pool(), As(DataType::kF32, x), weight, gate_up);
    cpu::Swiglu(Pool(), gate_up, of_cpu);
    EXPECT_LE(RelativeError(of_cpu, reference), kFloatTolerance);
    for (const GatedPlan& plan : Plans(tokens)) {
      const Tensor out = Poisoned({tokens, 344}, kType);
      Multiply(x, weight, out, plan);
      EXPECT_LE(RelativeError(out, reference), Tolerance(kType)) << Name(plan, out);
    }
  }
}

// By the plan that a step has.
TEST_F(GatedLinear, RowsOfOutMayBeStrided) {
  for (const int64_t tokens : {21, 90, 180}) {
    const Tensor x = As(kType, Random({tokens, 128}, 1));
    const Tensor weight = As(kType, Random({2 * 200, 128}, 2, 0.05f));
    const Tensor apart = Apart(x, weight);
    const Tensor wide = Poisoned({tokens, 200 + 24}, kType);
    Multiply(x, weight, wide.Columns(0, 200), cuda::ChooseGatedPlan(tokens, 200));
    const std::vector<float> expected = ToVector(apart);
    for (int64_t t = 0; t < tokens; ++t) {
      const std::vector<float> row = ToVector(wide.Slice(t, 1));
      for (size_t n = 0; n < row.size(); ++n) {
        if (n >= 200) {
          ASSERT_TRUE(std::isnan(row[n])) << t << ", " << n;
        } else {
          ASSERT_EQ(row[n], expected[static_cast<size_t>(t) * 200 + n]) << t << ", " << n;
        }
      }
    }
  }
}

// What stands in a row of padding, NaN too, changes no bit of the others.
TEST_F(GatedLinear, NanReachesItsRowOnly) {
  const int64_t width = 304;
  for (const int64_t tokens : {24, 96, 192}) {
    const Tensor values = Random({tokens, 256}, 1);
    const Tensor weight = As(kType, Random({2 * width, 256}, 2, 0.05f));
    const std::vector<float> expected = ToVector(Apart(As(kType, values), weight));
    static_cast<float*>(Tensor(values).raw())[256 * 18 + 5] = std::nanf("");
    for (const GatedPlan& plan : Plans(tokens)) {
      const Tensor out = Poisoned({tokens, width}, kType);
      Multiply(As(kType, values), weight, out, plan);
      const std::vector<float> got = ToVector(out);
      for (size_t i = 0; i < got.size(); ++i) {
        const bool is_nan = i / static_cast<size_t>(width) == 18;
        ASSERT_TRUE(is_nan ? std::isnan(got[i]) : got[i] == expected[i])
            << Name(plan, out) << " at " << i;
      }
    }
  }
}

// Products behind each other with the kernel ahead still running: x is read once it is there, and
// no slot is filled while it is read. Large enough that the rings stand full.
TEST_F(GatedLinear, WaitsForItsInputsRunAfterRun) {
  const Tensor first = As(kType, Random({2 * 1024, 512}, 1, 0.05f));
  const Tensor second = As(kType, Random({2 * 8192, 1024}, 2, 0.05f));
  for (const int64_t tokens : {64, 128, 256}) {
    const Tensor x = As(kType, Random({tokens, 512}, 3));
    const Tensor middle = Apart(x, first);
    const std::vector<float> expected = ToVector(Apart(middle, second));
    for (const GatedPlan& plan : Plans(tokens)) {
      const Tensor again = Poisoned({tokens, 1024}, kType);
      const Tensor out = Poisoned({tokens, 8192}, kType);
      {
        const GpuCall gpu;
        const Tensor between = gpu.Out(again);
        const Tensor there = gpu.Out(out);
        const Tensor in = gpu.In(x);
        const Tensor weights[] = {gpu.In(first), gpu.In(second)};
        for (int run = 0; run < 10; ++run) {
          cuda::LaunchGatedBatch(gpu.stream(), in, weights[0], between, plan);
          cuda::LaunchGatedBatch(gpu.stream(), between, weights[1], there, plan);
        }
      }
      ASSERT_EQ(ToVector(out), expected) << Name(plan, out);
    }
  }
}

}  // namespace
}  // namespace penstock
