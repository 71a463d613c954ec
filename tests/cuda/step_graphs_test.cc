#include "cuda/step_graphs.h"

#include "cuda/cuda_check.h"
#include "cuda/kernels/launchers.h"
#include "tests/support/gpu.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

// A graph does what was captured with what its inputs hold now; none is made after Freeze().
TEST(StepGraphs, AreCapturedOnceAndSeeNewInputs) {
  if (!GpuCall::Available()) GTEST_SKIP();
  const Tensor x = Random({4, 96}, 1);
  const Tensor other = Random({4, 96}, 2, 3.0f);
  const Tensor gain = Random({96}, 3);
  const Tensor outs[] = {Poisoned({4, 96}), Poisoned({4, 96}), Poisoned({4, 96})};
  const Tensor expected = Poisoned({4, 96});
  cuda::StepGraphs graphs;
  int calls = 0;
  {
    const GpuCall gpu;
    const auto norm = [&](const Tensor& in, const Tensor& out) {
      cuda::LaunchRmsNorm(gpu.stream(), in, gpu.In(gain), 1e-5f, out);
    };
    // All copies are there before anything is captured.
    const Tensor from = gpu.In(x);
    const Tensor on_gpu[] = {gpu.Out(outs[0]), gpu.Out(outs[1]), gpu.Out(outs[2])};
    norm(gpu.In(other), gpu.Out(expected));
    norm(gpu.Out(expected), on_gpu[0]);
    norm(on_gpu[0], gpu.Out(expected));
    const auto enqueue = [&] {
      ++calls;
      norm(from, on_gpu[0]);
      norm(on_gpu[0], on_gpu[1]);
      norm(on_gpu[1], on_gpu[2]);
    };
    graphs.Run(gpu.stream(), 7, enqueue);
    EXPECT_EQ(calls, 2);
    EXPECT_EQ(graphs.count(), 1);
    EXPECT_EQ(graphs.programmatic_edges(), 2);
    CUDA_CHECK(cudaMemcpyAsync(const_cast<void*>(from.raw()), other.raw(),
                               static_cast<size_t>(other.bytes()), cudaMemcpyHostToDevice,
                               gpu.stream()));
    CUDA_CHECK(cudaMemsetAsync(const_cast<void*>(on_gpu[2].raw()), 0xff,
                               static_cast<size_t>(outs[2].bytes()), gpu.stream()));
    graphs.Run(gpu.stream(), 7, enqueue);
    EXPECT_EQ(calls, 2);
    graphs.Freeze();
    graphs.Run(gpu.stream(), 7, enqueue);
    EXPECT_EQ(calls, 2);
  }
  EXPECT_EQ(ToVector(outs[2]), ToVector(expected));
  {
    const GpuCall gpu;
    int others = 0;
    for (int i = 1; i <= 2; ++i) {
      graphs.Run(gpu.stream(), 8, [&] { ++others; });
      EXPECT_EQ(others, i);
    }
  }
  EXPECT_EQ(graphs.count(), 1);
}

}  // namespace
}  // namespace penstock
