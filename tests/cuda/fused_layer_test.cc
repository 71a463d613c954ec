#include "cuda/fused_layer.h"

#include "core/kernels/linear.h"
#include "core/kernels/rms_norm.h"
#include "core/kernels/swiglu.h"
#include "tests/support/backends.h"
#include "tests/support/gpu.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr DataType kType = DataType::kBF16;

class FusedLayer : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!GpuCall::Available()) GTEST_SKIP();
  }
};

struct Size {
  int64_t q, hidden, width, qkv;
};

// Weights of a layer and the next one's q, k and v.
FusedLayerArgs Weights(const Size& size) {
  FusedLayerArgs args;
  const auto weight = [&](const Shape& shape, int seed) {
    return As(kType, Random(shape, seed, 1.0f / std::sqrt(static_cast<float>(shape[1]))));
  };
  args.output = weight({size.hidden, size.q}, 2);
  args.gain = As(kType, Random({size.hidden}, 4));
  args.gate_up = weight({2 * size.width, size.hidden}, 5);
  args.down = weight({size.hidden, size.width}, 6);
  args.next_gain = As(kType, Random({size.hidden}, 7));
  args.next = weight({size.qkv, size.hidden}, 8);
  args.eps = 1e-5f;
  return args;
}

// With inputs, and outputs that are poisoned.
FusedLayerArgs With(FusedLayerArgs args, int64_t tokens) {
  args.mixed = As(kType, Random({tokens, args.output.dim(1)}, 1));
  args.residual = Random({tokens, args.output.dim(0)}, 3);
  args.gated = Poisoned({tokens, args.down.dim(1)}, kType);
  args.normed = Poisoned({tokens, args.output.dim(0)}, kType);
  args.out = Poisoned({tokens, args.next.dim(0)}, kType);
  return args;
}

// The CPU's kernels behind each other, in f32.
struct Apart {
  explicit Apart(const FusedLayerArgs& args) {
    const auto f32 = [](const Tensor& tensor) { return As(DataType::kF32, tensor); };
    const int64_t tokens = args.mixed.dim(0);
    residual = f32(args.residual);
    normed = Poisoned({tokens, args.residual.dim(1)});
    cpu::LinearAdd(Pool(), f32(args.mixed), args.output, residual);
    cpu::RmsNorm(Pool(), residual, f32(args.gain), args.eps, normed);
    const Tensor gate_up = Poisoned({tokens, args.gate_up.dim(0)});
    const Tensor gated = Poisoned({tokens, args.down.dim(1)});
    cpu::Linear(Pool(), normed, args.gate_up, gate_up);
    cpu::Swiglu(Pool(), gate_up, gated);
    cpu::LinearAdd(Pool(), gated, args.down, residual);
    if (args.next_gain.empty()) return;
    cpu::RmsNorm(Pool(), residual, f32(args.next_gain), args.eps, normed);
    if (args.next.empty()) return;
    out = Poisoned({tokens, args.next.dim(0)});
    cpu::Linear(Pool(), normed, args.next, out);
  }
  Tensor residual, normed, out;
};

std::vector<double> Doubles(const Tensor& tensor) {
  const std::vector<float> values = ToVector(tensor);
  return {values.begin(), values.end()};
}

// On the GPU, so many times behind each other, each with the residual of the one before.
void Fuse(const FusedLayerArgs& args, int runs = 1) {
  const Tensor zeros = Poisoned({cuda::FusedLayerWorkspace()}, DataType::kU8);
  std::memset(Tensor(zeros).raw(), 0, static_cast<size_t>(zeros.bytes()));
  const GpuCall gpu;
  FusedLayerArgs there = args;
  for (Tensor* tensor : {&there.mixed, &there.output, &there.gain, &there.gate_up, &there.down,
                         &there.next_gain, &there.next}) {
    if (!tensor->empty()) *tensor = gpu.In(*tensor);
  }
  for (Tensor* tensor : {&there.residual, &there.gated, &there.normed, &there.out}) {
    if (!tensor->empty()) *tensor = gpu.Out(*tensor);
  }
  const Tensor workspace = gpu.In(zeros);
  for (int run = 0; run < runs; ++run) {
    cuda::LaunchFusedLayer(gpu.stream(), there, workspace);
  }
}

void ExpectAlike(const FusedLayerArgs& args, const Apart& apart) {
  const auto expect = [&](const Tensor& out, const Tensor& reference) {
    EXPECT_LE(RelativeError(out, Doubles(reference)), Tolerance(kType))
        << out.dim(0) << " tokens, hidden " << args.residual.dim(1);
  };
  expect(args.residual, apart.residual);
  if (!args.next_gain.empty()) expect(args.normed, apart.normed);
  if (!args.next.empty()) expect(args.out, apart.out);
}

// Less than a tile, odd numbers of tiles and slabs, true widths.
TEST_F(FusedLayer, MatchesTheKernelsBehindEachOther) {
  for (const Size& size :
       {Size{64, 64, 64, 64}, Size{192, 256, 320, 448}, Size{1024, 576, 1536, 960},
        Size{512, 2048, 5632, 2560}, Size{8192, 8192, 1024, 10240}}) {
    const FusedLayerArgs weights = Weights(size);
    for (const int64_t tokens : {1, 5, 17, 64, 65, 100, 128}) {
      const FusedLayerArgs args = With(weights, tokens);
      const Apart apart(args);
      Fuse(args);
      ExpectAlike(args, apart);
    }
  }
}

TEST_F(FusedLayer, MayBeALastLayer) {
  FusedLayerArgs weights = Weights({192, 256, 320, 448});
  for (const bool has_norm : {true, false}) {
    FusedLayerArgs args = With(weights, 30);
    args.next = Tensor();
    args.out = Tensor();
    if (!has_norm) args.next_gain = Tensor();
    const Apart apart(args);
    Fuse(args);
    ExpectAlike(args, apart);
  }
}

// True widths, rings that stand full, blocks that wait for each other: right, and the same bits in
// every run.
TEST_F(FusedLayer, HasTheSameBitsRunAfterRun) {
  for (const Size& size : {Size{4096, 4096, 14336, 6144}, Size{4096, 4096, 11008, 12288}}) {
    const FusedLayerArgs weights = Weights(size);
    for (const int64_t tokens : {1, 8, 64, 128}) {
      const FusedLayerArgs once = With(weights, tokens);
      const Apart apart(once);
      Fuse(once);
      ExpectAlike(once, apart);
      std::vector<float> expected;
      for (int round = 0; round < 3; ++round) {
        const FusedLayerArgs args = With(weights, tokens);
        Fuse(args, 20);
        const std::vector<float> got = ToVector(args.out);
        if (round == 0) expected = got;
        ASSERT_EQ(got, expected) << tokens << " tokens";
      }
    }
  }
}

// What stands in a row of padding, NaN too, changes no bit of the others.
TEST_F(FusedLayer, NanReachesItsRowOnly) {
  const FusedLayerArgs weights = Weights({192, 256, 320, 448});
  for (const int64_t tokens : {24, 96}) {
    const FusedLayerArgs whole = With(weights, tokens);
    Fuse(whole);
    const std::vector<float> expected = ToVector(whole.out);
    const FusedLayerArgs args = With(weights, tokens);
    static_cast<float*>(Tensor(args.residual).raw())[256 * 18 + 5] = std::nanf("");
    Fuse(args);
    const std::vector<float> got = ToVector(args.out);
    for (size_t i = 0; i < got.size(); ++i) {
      const bool is_nan = i / 448 == 18;
      ASSERT_TRUE(is_nan ? std::isnan(got[i]) : got[i] == expected[i]) << tokens << " at " << i;
    }
  }
}

}  // namespace
}  // namespace penstock
