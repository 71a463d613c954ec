#include "cuda/layer_tail.h"

#include <cstring>

#include "core/kernels/cpu_ops.h"
#include "cuda/kernels/fused_launchers.h"
#include "cuda/kernels/launchers.h"
#include "cuda/skinny_linear.h"
#include "tests/support/gpu.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr DataType kType = DataType::kBF16;

struct Sizes {
  int64_t tokens, hidden, q, intermediate, width;  // width 0: no product behind the layer
};

// All tensors of a layer's tail; what is written is poisoned, but for the residual stream.
struct Tail {
  explicit Tail(const Sizes& s, uint32_t seed, DataType type = kType)
      : mixed(As(type, As(kType, Random({s.tokens, s.q}, seed)))),
        output_weight(Weight(s.hidden, s.q, seed + 1, type)),
        gate_up_weight(Weight(2 * s.intermediate, s.hidden, seed + 2, type)),
        down_weight(Weight(s.hidden, s.intermediate, seed + 3, type)),
        next_qkv(s.width == 0 ? Tensor() : Weight(s.width, s.hidden, seed + 4, type)),
        post_gain(As(type, As(kType, Random({s.hidden}, seed + 5)))),
        next_gain(As(type, As(kType, Random({s.hidden}, seed + 6)))),
        residual(Random({s.tokens, s.hidden}, seed + 7)),
        qkv(Poisoned({s.tokens, std::max<int64_t>(s.width, 1)}, type)),
        norm(Poisoned({s.tokens, s.hidden}, type)),
        delta(Poisoned({s.tokens, s.hidden}, type)),
        gate_up(Poisoned({s.tokens, 2 * s.intermediate}, type)),
        gated(Poisoned({s.tokens, s.intermediate}, type)) {}

  static Tensor Weight(int64_t rows, int64_t columns, uint32_t seed, DataType type) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(columns));
    return As(type, As(kType, Random({rows, columns}, seed, scale)));
  }

  LayerTailArgs Args() const {
    return {mixed,     output_weight, gate_up_weight, down_weight, next_qkv,
            post_gain, next_gain,     1e-5f,          residual,    qkv,
            norm,      delta,         gate_up,        gated};
  }
  // Calls body(gpu, args) with all of it on the device.
  template <typename Body>
  void OnGpu(const Body& body) const {
    const GpuCall gpu;
    const Tensor there[] = {gpu.In(mixed),
                            gpu.In(output_weight),
                            gpu.In(gate_up_weight),
                            gpu.In(down_weight),
                            next_qkv.empty() ? next_qkv : gpu.In(next_qkv),
                            gpu.In(post_gain),
                            gpu.In(next_gain),
                            gpu.Out(residual),
                            gpu.Out(qkv),
                            gpu.Out(norm),
                            gpu.Out(delta),
                            gpu.Out(gate_up),
                            gpu.Out(gated)};
    body(gpu, LayerTailArgs{there[0], there[1], there[2], there[3], there[4], there[5], there[6],
                            1e-5f, there[7], there[8], there[9], there[10], there[11], there[12]});
  }

  Tensor mixed, output_weight, gate_up_weight, down_weight, next_qkv, post_gain, next_gain;
  Tensor residual, qkv, norm, delta, gate_up, gated;
};

// The kernels one by one.
void RunApart(const GpuCall& gpu, const LayerTailArgs& args) {
  const auto norm = [&](const Tensor& gain) {
    cuda::LaunchFusedResidualNorm(gpu.stream(), args.residual, args.delta, Tensor(), gain, args.eps,
                                  args.norm);
  };
  cuda::LaunchSkinnyLinear(gpu.stream(), args.mixed, args.output_weight, args.delta);
  norm(args.post_gain);
  cuda::LaunchSkinnyLinear(gpu.stream(), args.norm, args.gate_up_weight, args.gate_up);
  cuda::LaunchSwiglu(gpu.stream(), args.gate_up, args.gated);
  cuda::LaunchSkinnyLinear(gpu.stream(), args.gated, args.down_weight, args.delta);
  norm(args.next_gain);
  if (args.next_qkv.empty()) return;
  cuda::LaunchSkinnyLinear(gpu.stream(), args.norm, args.next_qkv, args.qkv);
}

Tensor Counters() {
  const Tensor counters = Make(DataType::kU8, {cuda::kTailCounterBytes});
  std::memset(Tensor(counters).raw(), 0, cuda::kTailCounterBytes);
  return counters;
}

void ExpectSame(const Tail& a, const Tail& b, const Sizes& sizes) {
  EXPECT_EQ(ToVector(a.residual), ToVector(b.residual)) << sizes.tokens << " x " << sizes.hidden;
  EXPECT_EQ(ToVector(a.norm), ToVector(b.norm)) << sizes.tokens << " x " << sizes.hidden;
  if (sizes.width == 0) return;
  EXPECT_EQ(ToVector(a.qkv), ToVector(b.qkv)) << sizes.tokens << " x " << sizes.hidden;
}

class LayerTail : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!GpuCall::Available()) GTEST_SKIP();
  }
};

// Rows that the registers hold and that they do not, whole stages of the ring and parts of one,
// more blocks than groups of rows and fewer, one token and all eight; with and without a next
// layer.
const Sizes kSizes[] = {{1, 64, 32, 96, 48},         {3, 96, 160, 32, 64},
                        {8, 512, 512, 1376, 768},    {7, 544, 640, 2080, 0},
                        {2, 4096, 4096, 1024, 6144}, {8, 4096, 4096, 4512, 0},
                        {5, 5120, 5120, 640, 160},   {8, 2048, 2048, 8192, 3072}};

TEST_F(LayerTail, GivesTheBitsOfItsKernels) {
  for (const Sizes& sizes : kSizes) {
    const Tail together(sizes, 1);
    const Tail apart(sizes, 1);
    together.OnGpu([&](const GpuCall& gpu, const LayerTailArgs& args) {
      ASSERT_TRUE(cuda::HasLayerTail(args));
      cuda::LaunchLayerTail(gpu.stream(), args, gpu.In(Counters()));
    });
    apart.OnGpu(RunApart);
    ExpectSame(together, apart, sizes);
  }
}

TEST_F(LayerTail, MatchesTheCpuTwins) {
  for (const Sizes& sizes : kSizes) {
    const Tail on_gpu(sizes, 2);
    on_gpu.OnGpu([&](const GpuCall& gpu, const LayerTailArgs& args) {
      cuda::LaunchLayerTail(gpu.stream(), args, gpu.In(Counters()));
    });
    const Tail twin(sizes, 2, DataType::kF32);
    CpuOps ops(Pool());
    ops.LayerTail(twin.Args());
    const auto error = [](const Tensor& out, const Tensor& expected) {
      const std::vector<float> values = ToVector(expected);
      return RelativeError(out, std::vector<double>(values.begin(), values.end()));
    };
    EXPECT_LE(error(on_gpu.residual, twin.residual), Tolerance(kType)) << sizes.hidden;
    EXPECT_LE(error(on_gpu.norm, twin.norm), Tolerance(kType)) << sizes.hidden;
    if (sizes.width > 0) {
      EXPECT_LE(error(on_gpu.qkv, twin.qkv), Tolerance(kType)) << sizes.hidden;
    }
  }
}

// Many launches behind each other in a stream, of other numbers of tokens, with the same counters:
// a chain of layers whose every link reads what the one before wrote. A race would give other bits
// in one of the runs.
TEST_F(LayerTail, LaunchesBehindEachOtherKeepTheirBits) {
  const Sizes sizes = {8, 1024, 1024, 2752, 1024};
  const auto run = [&](bool together) {
    const Tail tail(sizes, 3);
    tail.OnGpu([&](const GpuCall& gpu, const LayerTailArgs& all) {
      const Tensor counters = gpu.In(Counters());
      for (int64_t i = 0; i < 60; ++i) {
        const int64_t tokens = 8 - i % 8;
        const auto rows = [&](const Tensor& tensor) { return tensor.Slice(0, tokens); };
        // The last launch's qkv is what attention would have made of it.
        const Tensor mixed = i % 2 == 0 ? all.mixed : all.qkv;
        const Tensor qkv = i % 2 == 0 ? all.qkv : all.mixed;
        const Tensor parts[] = {rows(mixed),     rows(all.residual), rows(qkv),      rows(all.norm),
                                rows(all.delta), rows(all.gate_up),  rows(all.gated)};
        const LayerTailArgs args = {parts[0],        all.output_weight, all.gate_up_weight,
                                    all.down_weight, all.next_qkv,      all.post_gain,
                                    all.next_gain,   all.eps,           parts[1],
                                    parts[2],        parts[3],          parts[4],
                                    parts[5],        parts[6]};
        if (together) {
          cuda::LaunchLayerTail(gpu.stream(), args, counters);
        } else {
          RunApart(gpu, args);
        }
      }
    });
    return tail;
  };
  const Tail apart = run(false);
  for (int repeat = 0; repeat < 5; ++repeat) ExpectSame(run(true), apart, sizes);
}

}  // namespace
}  // namespace penstock
