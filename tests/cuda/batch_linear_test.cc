#include "cuda/batch_linear.h"

#include "cuda/add_norm.h"
#include "cuda/blas.h"
#include "cuda/kernels/launchers.h"
#include "tests/support/backends.h"
#include "tests/support/gpu.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)
using cuda::SumOrder;

constexpr DataType kType = DataType::kBF16;
constexpr float kEps = 1e-5f;

// Each form: rows of a tile, whole k and halves of it. Of 132 multiprocessors; where a GPU has
// fewer, those sizes have no plan and are left out.
struct Size {
  int64_t out, in;
};
std::vector<Size> Sizes() {
  std::vector<Size> sizes = {{4096, 384},  {5120, 256},  {6144, 128}, {8192, 640},
                             {10240, 128}, {12288, 256}, {4096, 4096}};
  std::erase_if(sizes, [](const Size& size) { return cuda::ChooseBatchPlan(size.out).rows == 0; });
  return sizes;
}

class BatchLinear : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!GpuCall::Available()) GTEST_SKIP();
    if (Sizes().empty()) GTEST_SKIP() << "no size of these fills this GPU";
  }
};

// x, both weights, the residual and the gain of a layer's joint.
struct Joint {
  Joint(int64_t tokens, const Size& size)
      : x(As(kType, Random({tokens, size.in}, 1))),
        weight(As(kType, Random({size.out, size.in}, 2, 0.05f))),
        residual(Random({tokens, size.out}, 3, 2)),
        gain(As(kType, Random({size.out}, 4))) {}

  Tensor x, weight, residual, gain;
};

struct Result {
  Result(int64_t tokens, int64_t features)
      : sum(Poisoned({tokens, features})),
        gained(Poisoned({tokens, features}, kType)),
        squares(Poisoned({tokens, cuda::ChooseBatchPlan(features).Parts(features)})) {}

  Tensor sum, gained, squares;
};

// On host tensors, into host tensors.
Result Add(const Joint& joint) {
  const Result result(joint.x.dim(0), joint.weight.dim(0));
  std::memcpy(Tensor(result.sum).raw(), joint.residual.raw(),
              static_cast<size_t>(joint.residual.bytes()));
  const GpuCall gpu;
  cuda::LaunchBatchAddAndNorm(gpu.stream(), gpu.In(joint.x), gpu.In(joint.weight),
                              gpu.Out(result.sum), gpu.In(joint.gain), gpu.Out(result.gained),
                              gpu.Out(result.squares));
  return result;
}

std::vector<double> SquareSums(const std::vector<double>& values, size_t features) {
  std::vector<double> sums;
  for (size_t i = 0; i < values.size(); i += features) {
    double sum = 0;
    for (size_t j = 0; j < features; ++j) sum += values[i + j] * values[i + j];
    sums.push_back(sum);
  }
  return sums;
}

std::vector<double> Doubles(const Tensor& tensor) {
  const std::vector<float> values = ToVector(tensor);
  return {values.begin(), values.end()};
}

std::string Name(int64_t tokens, const Size& size) {
  return absl::StrCat(tokens, " tokens, ", size.out, " x ", size.in);
}

TEST_F(BatchLinear, AddsAndGainsAsFloat64Does) {
  for (const Size& size : Sizes()) {
    for (const int64_t tokens : {17, 33, 64}) {
      if (size.in > 1000 && tokens != 33 && tokens != 55) continue;
      const Joint joint(tokens, size);
      std::vector<double> sum = ProductInFloat64(joint.x, joint.weight);
      const std::vector<float> residual = ToVector(joint.residual);
      const std::vector<float> gain = ToVector(joint.gain);
      std::vector<double> gained;
      for (size_t i = 0; i < sum.size(); ++i) {
        sum[i] += residual[i];
        gained.push_back(sum[i] * gain[i % gain.size()]);
      }
      const Result result = Add(joint);
      EXPECT_LE(RelativeError(result.sum, sum), kFloatTolerance) << Name(tokens, size);
      EXPECT_LE(RelativeError(result.gained, gained), Tolerance(kType)) << Name(tokens, size);
      const std::vector<double> squares = SquareSums(sum, static_cast<size_t>(size.out));
      const std::vector<float> parts = ToVector(result.squares);
      const size_t count = parts.size() / squares.size();
      for (size_t t = 0; t < squares.size(); ++t) {
        double all = 0;
        for (size_t i = 0; i < count; ++i) all += parts[t * count + i];
        ASSERT_NEAR(all / squares[t], 1, 1e-5) << Name(tokens, size) << ", token " << t;
      }
    }
  }
}

TEST_F(BatchLinear, MultipliesByTheFactorAsFloat64Does) {
  for (const Size& size : Sizes()) {
    for (const int64_t tokens : {18, 55, 63}) {
      if (size.in > 1000 && tokens != 33 && tokens != 55) continue;
      const Joint joint(tokens, size);
      const std::vector<double> product = ProductInFloat64(joint.x, joint.weight);
      // Parts that are not alike, so that one left out shows.
      const Tensor parts = Random({tokens, 12}, 5);
      std::vector<float> values = ToVector(parts);
      for (float& value : values) value = value * value + 0.25f;
      std::memcpy(Tensor(parts).raw(), values.data(), values.size() * sizeof(float));
      std::vector<double> expected;
      for (size_t i = 0; i < product.size(); ++i) {
        const size_t token = i / static_cast<size_t>(size.out);
        double squares = 0;
        for (size_t p = 0; p < 12; ++p) squares += values[token * 12 + p];
        expected.push_back(product[i] / std::sqrt(squares / 7 + kEps));
      }
      const Tensor plain = Poisoned({tokens, size.out}, kType);
      const Tensor out = Poisoned({tokens, size.out}, kType);
      {
        const GpuCall gpu;
        const Tensor x = gpu.In(joint.x);
        const Tensor weight = gpu.In(joint.weight);
        cuda::LaunchBatchLinear(gpu.stream(), x, weight, gpu.Out(plain));
        cuda::LaunchBatchLinear(gpu.stream(), x, weight, gpu.Out(out), {gpu.In(parts), 7, kEps});
      }
      EXPECT_LE(RelativeError(plain, product), Tolerance(kType)) << Name(tokens, size);
      EXPECT_LE(RelativeError(out, expected), Tolerance(kType)) << Name(tokens, size);
    }
  }
}

TEST_F(BatchLinear, RowsMayBeStrided) {
  const Size size = {4096, 256};
  if (cuda::ChooseBatchPlan(size.out).rows == 0) GTEST_SKIP();
  for (const int64_t tokens : {21, 56}) {
    const Joint joint(tokens, size);
    const Result dense = Add(joint);
    const Tensor plain = Poisoned({tokens, size.out}, kType);
    Result wide(tokens, size.out);
    wide.sum = Poisoned({tokens, size.out + 8});
    wide.gained = Poisoned({tokens, size.out + 16}, kType);
    const Tensor out = Poisoned({tokens, size.out + 24}, kType);
    for (int64_t t = 0; t < tokens; ++t) {
      std::memcpy(wide.sum.Slice(t, 1).raw(), joint.residual.Slice(t, 1).raw(),
                  static_cast<size_t>(size.out) * sizeof(float));
    }
    {
      const GpuCall gpu;
      const Tensor x = gpu.In(joint.x);
      const Tensor weight = gpu.In(joint.weight);
      cuda::LaunchBatchAddAndNorm(gpu.stream(), x, weight, gpu.Out(wide.sum.Columns(0, size.out)),
                                  gpu.In(joint.gain), gpu.Out(wide.gained.Columns(0, size.out)),
                                  gpu.Out(wide.squares));
      cuda::LaunchBatchLinear(gpu.stream(), x, weight, gpu.Out(plain));
      cuda::LaunchBatchLinear(gpu.stream(), x, weight, gpu.Out(out.Columns(0, size.out)));
    }
    const auto expect = [&](const Tensor& strided, const Tensor& of) {
      for (int64_t t = 0; t < tokens; ++t) {
        const std::vector<float> row = ToVector(strided.Slice(t, 1));
        const std::vector<float> expected = ToVector(of.Slice(t, 1));
        for (size_t i = 0; i < row.size(); ++i) {
          if (i >= expected.size()) {
            ASSERT_TRUE(std::isnan(row[i])) << t << ", " << i;
          } else {
            ASSERT_EQ(row[i], expected[i]) << t << ", " << i;
          }
        }
      }
    };
    expect(wide.sum, dense.sum);
    expect(wide.gained, dense.gained);
    expect(out, plain);
    EXPECT_EQ(ToVector(wide.squares), ToVector(dense.squares));
  }
}

TEST_F(BatchLinear, NanReachesItsRowOnly) {
  const Size size = {4096, 256};
  if (cuda::ChooseBatchPlan(size.out).rows == 0) GTEST_SKIP();
  for (const int64_t tokens : {24, 60}) {
    Joint joint(tokens, size);
    const Result clean = Add(joint);
    const Tensor values = Random({tokens, size.in}, 1);
    static_cast<float*>(Tensor(values).raw())[size.in * 18 + 5] = std::nanf("");
    joint.x = As(kType, values);
    const Result result = Add(joint);
    const auto expect = [&](const Tensor& got, const Tensor& expected) {
      for (int64_t t = 0; t < tokens; ++t) {
        const std::vector<float> row = ToVector(got.Slice(t, 1));
        const std::vector<float> as = ToVector(expected.Slice(t, 1));
        for (size_t i = 0; i < row.size(); ++i) {
          ASSERT_TRUE(t == 18 ? std::isnan(row[i]) : row[i] == as[i]) << t << ", " << i;
        }
      }
    };
    expect(result.sum, clean.sum);
    expect(result.gained, clean.gained);
    expect(result.squares, clean.squares);
  }
}

// A layer's chain, with the kernel ahead still running: the same bits each time, and those of each
// kernel by itself. Large enough that the rings stand full.
TEST_F(BatchLinear, WaitsForItsInputsRunAfterRun) {
  const Size size = {4096, 2048};
  if (cuda::ChooseBatchPlan(size.out).rows == 0) GTEST_SKIP();
  for (const int64_t tokens : {40, 64}) {
    const Joint joint(tokens, size);
    const Tensor back = As(kType, Random({4096, 4096}, 6, 0.05f));
    const Result alone = Add(joint);
    const Tensor expected = Poisoned({tokens, 4096}, kType);
    {
      const GpuCall gpu;
      cuda::LaunchBatchLinear(gpu.stream(), gpu.In(alone.gained), gpu.In(back), gpu.Out(expected),
                              {gpu.In(alone.squares), 4096, kEps});
    }
    const Result again(tokens, size.out);
    const Tensor out = Poisoned({tokens, 4096}, kType);
    {
      const GpuCall gpu;
      const Tensor x = gpu.In(joint.x);
      const Tensor weight = gpu.In(joint.weight);
      const Tensor gain = gpu.In(joint.gain);
      const Tensor second = gpu.In(back);
      const Tensor gained = gpu.Out(again.gained);
      const Tensor squares = gpu.Out(again.squares);
      const Tensor there = gpu.Out(out);
      std::vector<Tensor> sums;
      for (int run = 0; run < 10; ++run) {
        const Tensor copy = Poisoned(joint.residual.shape());
        std::memcpy(Tensor(copy).raw(), joint.residual.raw(), static_cast<size_t>(copy.bytes()));
        sums.push_back(copy);
      }
      std::vector<Tensor> on_gpu;
      for (const Tensor& sum : sums) on_gpu.push_back(gpu.In(sum));
      for (const Tensor& sum : on_gpu) {
        cuda::LaunchBatchAddAndNorm(gpu.stream(), x, weight, sum, gain, gained, squares);
        cuda::LaunchBatchLinear(gpu.stream(), gained, second, there, {squares, 4096, kEps});
      }
    }
    EXPECT_EQ(ToVector(again.gained), ToVector(alone.gained)) << tokens;
    EXPECT_EQ(ToVector(again.squares), ToVector(alone.squares)) << tokens;
    ASSERT_EQ(ToVector(out), ToVector(expected)) << tokens;
  }
}

// What a model calls, against linear_add, rms_norm and the product behind each other; and where it
// is not taken.
TEST_F(BatchLinear, AddNormIsTheThreeBehindEachOther) {
  const Size size = {4096, 512};
  if (cuda::ChooseBatchPlan(6144).rows == 0) GTEST_SKIP();
  const Tensor qkv = As(kType, Random({6144, size.out}, 5, 0.05f));
  const Tensor gate_up = As(kType, Random({28672, size.out}, 6, 0.05f));
  for (const int64_t tokens : {16, 17, 64, 65}) {
    const Joint joint(tokens, size);
    for (const SumOrder order : {SumOrder::kFastest, SumOrder::kFixed}) {
      const auto run = [&](bool apart, bool gated, const Tensor& sum, const Tensor& out) {
        std::memcpy(Tensor(sum).raw(), joint.residual.raw(), static_cast<size_t>(sum.bytes()));
        const Tensor host_norm = Poisoned({tokens, size.out}, kType);
        const Tensor host_workspace = Poisoned({cuda::AddNormWorkspace() / 4});
        const Tensor host_both = Poisoned({tokens, 28672}, kType);
        const GpuCall gpu;
        const Tensor norm = gpu.Out(host_norm);
        const AddNormArgs add = {
            gpu.In(joint.x), gpu.In(joint.weight), gpu.Out(sum), gpu.In(joint.gain), kEps, norm};
        const Tensor weight = gpu.In(gated ? gate_up : qkv);
        if (!apart) {
          const Tensor workspace = gpu.Out(host_workspace);
          return gated ? LaunchAddNormGatedLinear(order, gpu.stream(), add, workspace, weight,
                                                  gpu.Out(out))
                       : LaunchAddNormLinear(order, gpu.stream(), add, workspace, weight,
                                             gpu.Out(out));
        }
        cuda::LaunchLinearAdd(gpu.blas(), gpu.stream(), add.x, add.weight, add.residual);
        cuda::LaunchRmsNorm(gpu.stream(), add.residual, add.gain, kEps, norm);
        if (gated) {
          const Tensor both = gpu.Out(host_both);
          cuda::LaunchLinear(gpu.blas(), gpu.stream(), norm, weight, both);
          cuda::LaunchSwiglu(gpu.stream(), both, gpu.Out(out));
        } else {
          cuda::LaunchLinear(gpu.blas(), gpu.stream(), norm, weight, gpu.Out(out));
        }
        return true;
      };
      for (const bool gated : {false, true}) {
        const Tensor sum = Poisoned({tokens, size.out});
        const Tensor out = Poisoned({tokens, gated ? 14336 : 6144}, kType);
        const bool is_taken = run(false, gated, sum, out);
        ASSERT_EQ(is_taken, order == SumOrder::kFastest && tokens > 16 && tokens <= 64) << tokens;
        if (!is_taken) continue;
        const Tensor sum_apart = Poisoned({tokens, size.out});
        const Tensor apart = Poisoned({tokens, out.dim(1)}, kType);
        run(true, gated, sum_apart, apart);
        EXPECT_LE(RelativeError(sum, Doubles(sum_apart)), kFloatTolerance) << tokens;
        EXPECT_LE(RelativeError(out, Doubles(apart)), Tolerance(kType)) << tokens;
      }
    }
  }
}

// Two stages, of which one adds and the other goes on from the sum, give the bits of one.
TEST_F(BatchLinear, AddNormLinearInTwoPartsHasTheSameBits) {
  const Size size = {4096, 512};
  if (cuda::ChooseBatchPlan(6144).rows == 0) GTEST_SKIP();
  const Tensor qkv = As(kType, Random({6144, size.out}, 5, 0.05f));
  const Tensor zeros = Poisoned(cuda::AddNormZeros(), kType);
  std::memset(Tensor(zeros).raw(), 0, static_cast<size_t>(zeros.bytes()));
  for (const int64_t tokens : {16, 17, 40, 64, 65}) {
    const Joint joint(tokens, size);
    Tensor sums[2];
    Tensor outs[2];
    bool taken[3] = {};
    for (const bool in_two : {false, true}) {
      const Tensor sum = Poisoned({tokens, size.out});
      const Tensor out = Poisoned({tokens, 6144}, kType);
      std::memcpy(Tensor(sum).raw(), joint.residual.raw(), static_cast<size_t>(sum.bytes()));
      const Tensor norm = Poisoned({tokens, size.out}, kType);
      const Tensor workspace = Poisoned({cuda::AddNormWorkspace() / 4});
      cuda::Blas blas;
      {
        const GpuCall gpu;
        const AddNormArgs add = {
            gpu.In(joint.x), gpu.In(joint.weight), gpu.Out(sum), gpu.In(joint.gain), kEps,
            gpu.Out(norm)};
        const Tensor room = gpu.Out(workspace);
        const Tensor weight = gpu.In(qkv);
        const auto order = SumOrder::kFastest;
        if (in_two) {
          taken[1] = cuda::LaunchAddOfNormLinear(blas, gpu.stream(), add, room, weight);
          taken[2] = cuda::LaunchNormLinearOfAdd(order, gpu.stream(), add, room, gpu.In(zeros),
                                                 weight, gpu.Out(out));
        } else {
          taken[0] =
              cuda::LaunchAddNormLinear(order, gpu.stream(), add, room, weight, gpu.Out(out));
        }
      }
      sums[in_two] = sum;
      outs[in_two] = out;
    }
    for (const bool is_taken : taken) EXPECT_EQ(is_taken, tokens > 16 && tokens <= 64) << tokens;
    if (!taken[0]) continue;
    EXPECT_EQ(ToVector(sums[1]), ToVector(sums[0])) << tokens;
    EXPECT_EQ(ToVector(outs[1]), ToVector(outs[0])) << tokens;
  }
}

// linear_add and rms_norm with the product in halves, against the two behind each other; and where
// it is not taken.
TEST_F(BatchLinear, AddNormInHalvesIsTheTwoBehindEachOther) {
  const Size size = {1024, 3584};
  for (const int64_t tokens : {128, 129, 200, 256, 257}) {
    const Joint joint(tokens, size);
    for (const SumOrder order : {SumOrder::kFastest, SumOrder::kFixed}) {
      const Tensor sum = Poisoned({tokens, size.out});
      const Tensor norm = Poisoned({tokens, size.out}, kType);
      const Tensor sum_apart = Poisoned({tokens, size.out});
      const Tensor norm_apart = Poisoned({tokens, size.out}, kType);
      for (const Tensor& each : {sum, sum_apart}) {
        std::memcpy(Tensor(each).raw(), joint.residual.raw(), static_cast<size_t>(each.bytes()));
      }
      bool is_taken = false;
      {
        cuda::Blas blas;
        blas.set_sum_order(order);
        const GpuCall gpu;
        const Tensor x = gpu.In(joint.x);
        const Tensor weight = gpu.In(joint.weight);
        const Tensor gain = gpu.In(joint.gain);
        is_taken = cuda::LaunchAddNorm(blas, gpu.stream(),
                                       {x, weight, gpu.Out(sum), gain, kEps, gpu.Out(norm)});
        cuda::LaunchLinearAdd(gpu.blas(), gpu.stream(), x, weight, gpu.Out(sum_apart));
        cuda::LaunchRmsNorm(gpu.stream(), gpu.Out(sum_apart), gain, kEps, gpu.Out(norm_apart));
      }
      ASSERT_EQ(is_taken, order == SumOrder::kFastest && tokens >= 129 && tokens <= 256) << tokens;
      if (!is_taken) continue;
      EXPECT_LE(RelativeError(sum, Doubles(sum_apart)), kFloatTolerance) << tokens;
      EXPECT_LE(RelativeError(norm, Doubles(norm_apart)), Tolerance(kType)) << tokens;
      // A stage that goes on from the sum has the same norm.
      const Tensor norm_of_sum = Poisoned({tokens, size.out}, kType);
      {
        const GpuCall gpu;
        cuda::LaunchRmsNorm(gpu.stream(), gpu.In(sum), gpu.In(joint.gain), kEps,
                            gpu.Out(norm_of_sum));
      }
      EXPECT_EQ(ToVector(norm_of_sum), ToVector(norm)) << tokens;
    }
  }
}

}  // namespace
}  // namespace penstock
