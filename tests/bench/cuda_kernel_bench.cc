// The simple CUDA kernels at the shapes of a 7B model, prefill and decode: GB/s and the share of
// the read bandwidth measured in the same run, TFLOP/s beside cuBLAS for sgemm. Each is checked
// against its CPU twin (sgemm: against cuBLAS) before it is timed. usage: cuda_kernel_bench Prints
// one JSON line a case. Inputs rotate through more memory than level 2 holds.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/kernels/conv2d.h"
#include "core/kernels/embedding.h"
#include "core/kernels/fused_residual_norm.h"
#include "core/kernels/gemv.h"
#include "core/kernels/mask_scale_softmax.h"
#include "core/kernels/rms_norm.h"
#include "core/kernels/swiglu.h"
#include "core/kernels/top_k.h"
#include "core/tensor/dequantize.h"
#include "cuda/blas.h"
#include "cuda/ceilings.h"
#include "cuda/cuda_check.h"
#include "cuda/kernels/launchers.h"
#include "tests/bench/cuda_bench.h"

namespace penstock::bench {
namespace {

constexpr DataType kBf16 = DataType::kBF16;
constexpr DataType kF32 = DataType::kF32;
constexpr int64_t kRotated = int64_t{256} << 20;  // bytes, four times level 2

ThreadPool& Pool() {
  static ThreadPool pool(8);
  return pool;
}

// A device tensor on the host, its float types as f32.
Tensor OnHost(const Tensor& device) {
  static HostAllocator allocator;
  absl::StatusOr<Tensor> raw = Tensor::Make(device.type(), device.shape(), allocator);
  PENSTOCK_CHECK(raw.ok());
  CUDA_CHECK(cudaMemcpy(raw->raw(), device.raw(), static_cast<size_t>(device.bytes()),
                        cudaMemcpyDeviceToHost));
  if (device.type() != DataType::kF16 && device.type() != kBf16) return *raw;
  absl::StatusOr<Tensor> values = Tensor::Make(kF32, device.shape(), allocator);
  PENSTOCK_CHECK(values.ok());
  Dequantize(device.type(), raw->raw(), device.num_elements(), static_cast<float*>(values->raw()));
  return *values;
}

void CheckEqual(const char* kernel, const Tensor& device, const Tensor& expected,
                double tolerance) {
  const Tensor out = OnHost(device);
  const auto* a = static_cast<const float*>(out.raw());
  const auto* b = static_cast<const float*>(expected.raw());
  double error = 0;
  double size = 0;
  for (int64_t i = 0; i < expected.num_elements(); ++i) {
    error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += double{b[i]} * b[i];
  }
  if (error <= tolerance * tolerance * size) return;  // NaN is not
  std::printf("%s is wrong: relative error %g\n", kernel, std::sqrt(error / size));
  std::exit(1);
}

struct Report {
  const CudaStream& stream;
  double bandwidth;

  // `launch(i)` works on the i-th of `copies` sets of tensors; `bytes` a call.
  void Bytes(const char* kernel, const std::string& shape, double bytes, int64_t copies,
             const std::function<void(int64_t)>& launch) const {
    const int64_t calls = copies * (copies < 20 ? 20 / copies + 1 : 1);
    const double us = GraphMicroseconds(stream,
                                        [&] {
                                          for (int64_t i = 0; i < calls; ++i) launch(i % copies);
                                        }) /
                      static_cast<double>(calls);
    std::printf(
        "{\"kernel\": \"%s\", \"shape\": \"%s\", \"us\": %.2f, \"gb_s\": %.1f, "
        "\"share\": %.3f}\n",
        kernel, shape.c_str(), us, bytes / us * 1e-3, bytes / us * 1e6 / bandwidth);
    std::fflush(stdout);
  }
};

// Sets of `make()` that fill kRotated together.
template <typename Make>
auto Rotate(double bytes, const Make& make) {
  std::vector<decltype(make())> sets;
  const auto count = std::max<int64_t>(2, static_cast<int64_t>(kRotated / bytes));
  for (int64_t i = 0; i < std::min<int64_t>(count, 64); ++i) sets.push_back(make());
  return sets;
}

void BenchRows(const Report& report, int64_t tokens) {
  const int64_t hidden = 4096;
  const int64_t wide = 11008;
  const auto size = static_cast<double>(tokens);
  const std::string shape = absl::StrCat(tokens, " x ", hidden, " bf16");
  const Tensor gain = Random(kBf16, {hidden}, 2);
  struct Rows {
    Tensor x, residual, out;
  };
  const double norm_bytes = 4 * size * hidden;
  const auto rows = Rotate(norm_bytes, [&] {
    return Rows{Random(kBf16, {tokens, hidden}, 3), Random(kBf16, {tokens, hidden}, 4),
                Uninitialized(kBf16, {tokens, hidden})};
  });
  const Rows& first = rows[0];
  const Tensor expected = OnHost(first.out);
  cuda::LaunchRmsNorm(report.stream.get(), first.x, gain, 1e-5F, first.out);
  report.stream.Synchronize();
  cpu::RmsNorm(Pool(), OnHost(first.x), OnHost(gain), 1e-5F, expected);
  CheckEqual("rms_norm", first.out, expected, 1e-2);
  report.Bytes("rms_norm", shape, norm_bytes, static_cast<int64_t>(rows.size()), [&](int64_t i) {
    const Rows& at = rows[static_cast<size_t>(i)];
    cuda::LaunchRmsNorm(report.stream.get(), at.x, gain, 1e-5F, at.out);
  });

  const Tensor residual = OnHost(first.residual);
  cuda::LaunchFusedResidualNorm(report.stream.get(), first.residual, first.x, Tensor(), gain, 1e-5F,
                                first.out);
  report.stream.Synchronize();
  cpu::FusedResidualNorm(Pool(), residual, OnHost(first.x), Tensor(), OnHost(gain), 1e-5F,
                         expected);
  CheckEqual("fused_residual_norm", first.out, expected, 1e-2);
  report.Bytes("fused_residual_norm", shape, 2 * norm_bytes, static_cast<int64_t>(rows.size()),
               [&](int64_t i) {
                 const Rows& at = rows[static_cast<size_t>(i)];
                 cuda::LaunchFusedResidualNorm(report.stream.get(), at.residual, at.x, Tensor(),
                                               gain, 1e-5F, at.out);
               });

  struct Gated {
    Tensor in, out;
  };
  const double gated_bytes = 6 * size * wide;
  const auto gated = Rotate(gated_bytes, [&] {
    return Gated{Random(kBf16, {tokens, 2 * wide}, 5), Uninitialized(kBf16, {tokens, wide})};
  });
  cuda::LaunchSwiglu(report.stream.get(), gated[0].in, gated[0].out);
  report.stream.Synchronize();
  const Tensor activated = OnHost(gated[0].out);
  cpu::Swiglu(Pool(), OnHost(gated[0].in), activated);
  CheckEqual("swiglu", gated[0].out, activated, 1e-2);
  report.Bytes("swiglu", absl::StrCat(tokens, " x ", wide, " bf16"), gated_bytes,
               static_cast<int64_t>(gated.size()), [&](int64_t i) {
                 const Gated& at = gated[static_cast<size_t>(i)];
                 cuda::LaunchSwiglu(report.stream.get(), at.in, at.out);
               });
}

void BenchSoftmax(const Report& report) {
  const Tensor mask = Uninitialized(DataType::kU8, {1, 1024, 1024});
  CUDA_CHECK(cudaMemset(const_cast<void*>(mask.raw()), 1, 1024 * 1024));
  CUDA_CHECK(cudaDeviceSynchronize());
  std::vector<Tensor> scores;
  for (uint32_t i = 0; i < 8; ++i) scores.push_back(Random(kF32, {1, 32, 1024, 1024}, i, 3.0F));
  const Tensor expected = OnHost(scores[0]);
  cuda::LaunchMaskScaleSoftmax(report.stream.get(), scores[0], mask, 0.125F);
  report.stream.Synchronize();
  cpu::MaskScaleSoftmax(Pool(), expected, OnHost(mask), 0.125F);
  CheckEqual("mask_scale_softmax", scores[0], expected, 1e-5);
  const double bytes = 32.0 * 1024 * 1024 * 8 + 1024 * 1024;
  report.Bytes("mask_scale_softmax", "32 x 1024 x 1024 f32", bytes, 8, [&](int64_t i) {
    cuda::LaunchMaskScaleSoftmax(report.stream.get(), scores[static_cast<size_t>(i)], mask, 0.125F);
  });
}

void BenchGemv(const Report& report, DataType type) {
  const int64_t size = 8192;
  std::vector<Tensor> weights;
  for (uint32_t i = 0; i < 4; ++i) weights.push_back(Random(type, {size, size}, i, 0.1F));
  const Tensor x = Random(kF32, {size}, 9);
  const Tensor y = Uninitialized(kF32, {size});
  cuda::LaunchGemv(report.stream.get(), weights[0], x, y);
  report.stream.Synchronize();
  const Tensor expected = OnHost(y);
  cpu::Gemv(Pool(), OnHost(weights[0]), OnHost(x), expected);
  CheckEqual("gemv", y, expected, 1e-5);
  report.Bytes("gemv", absl::StrCat(size, " x ", size, " ", Abs(Name(type))),
               static_cast<double>(weights[0].bytes()), 4, [&](int64_t i) {
                 cuda::LaunchGemv(report.stream.get(), weights[static_cast<size_t>(i)], x, y);
               });
}

void BenchTopK(const Report& report, int64_t rows) {
  const Tensor x = Random(kF32, {rows, 128256}, 1);
  const Tensor values = Uninitialized(kF32, {rows, 50});
  const Tensor indices = Uninitialized(DataType::kI32, {rows, 50});
  cuda::LaunchTopK(report.stream.get(), x, values, indices);
  report.stream.Synchronize();
  const Tensor expected = OnHost(values);
  cpu::TopK(Pool(), OnHost(x), expected, OnHost(indices));
  CheckEqual("top_k", values, expected, 0);
  report.Bytes("top_k", absl::StrCat(rows, " x 128256, k 50"), static_cast<double>(x.bytes()), 1,
               [&](int64_t) { cuda::LaunchTopK(report.stream.get(), x, values, indices); });
}

void BenchSgemm(const Report& report, const cuda::Blas& blas, int64_t size) {
  const Tensor a = Random(kF32, {size, size}, 1);
  const Tensor b = Random(kF32, {size, size}, 2);
  const Tensor ours = Uninitialized(kF32, {size, size});
  const Tensor theirs = Uninitialized(kF32, {size, size});
  const auto n = static_cast<int>(size);
  const float one = 1;
  const float zero = 0;
  const auto run_ours = [&] { cuda::LaunchSgemm(report.stream.get(), 1.0F, a, b, 0.0F, ours); };
  const auto run_blas = [&] {
    BLAS_CHECK(cublasSgemm(blas.On(report.stream.get()), CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one,
                           static_cast<const float*>(b.raw()), n,
                           static_cast<const float*>(a.raw()), n, &zero,
                           static_cast<float*>(const_cast<void*>(theirs.raw())), n));
  };
  run_ours();
  run_blas();
  report.stream.Synchronize();
  CheckEqual("sgemm", ours, OnHost(theirs), 1e-5);
  double us[2] = {GraphMicroseconds(report.stream, run_ours),
                  GraphMicroseconds(report.stream, run_blas)};
  us[1] = std::min(us[1], GraphMicroseconds(report.stream, run_blas));
  us[0] = std::min(us[0], GraphMicroseconds(report.stream, run_ours));
  const double flops = 2.0 * static_cast<double>(size) * static_cast<double>(size * size);
  std::printf(
      "{\"kernel\": \"sgemm\", \"shape\": \"%ld\", \"us\": %.1f, \"tflop_s\": %.2f, "
      "\"cublas_tflop_s\": %.2f, \"of_cublas\": %.3f}\n",
      size, us[0], flops / us[0] * 1e-6, flops / us[1] * 1e-6, us[1] / us[0]);
}

void BenchConv2d(const Report& report, int64_t batch, int64_t channels, int64_t side) {
  const Tensor in = Random(kF32, {batch, channels, side, side}, 1);
  const Tensor weight = Random(kF32, {channels, channels, 3, 3}, 2);
  const Tensor out = Uninitialized(kF32, {batch, channels, side, side});
  Conv2dOptions options;
  options.padding_y = options.padding_x = 1;
  const auto run = [&] {
    cuda::LaunchConv2d(report.stream.get(), in, weight, Tensor(), options, out);
  };
  run();
  report.stream.Synchronize();
  const Tensor expected = OnHost(out.Slice(0, 1));
  cpu::Conv2d(Pool(), OnHost(in.Slice(0, 1)), OnHost(weight), Tensor(), options, expected);
  CheckEqual("conv2d", out.Slice(0, 1), expected, 1e-5);
  const double us = GraphMicroseconds(report.stream, run);
  const double flops = 18.0 * static_cast<double>(batch * channels * channels * side * side);
  std::printf(
      "{\"kernel\": \"conv2d\", \"shape\": \"%ld x %ld x %ld x %ld, 3 x 3\", \"us\": %.1f, "
      "\"tflop_s\": %.2f}\n",
      batch, channels, side, side, us, flops / us * 1e-6);
}

int Run() {
  PrintDevice();
  const CudaStream stream;
  double bandwidth = 0;
  {
    const Tensor data = Random(kBf16, {int64_t{1} << 30}, 1);
    bandwidth = MeasureReadBandwidth(data);
    std::printf("{\"read_bandwidth_gb_s\": %.1f}\n", bandwidth * 1e-9);
  }
  const Report report = {stream, bandwidth};
  for (const int64_t tokens : {int64_t{1}, int64_t{64}, int64_t{4096}}) BenchRows(report, tokens);
  BenchSoftmax(report);
  for (const DataType type : {kF32, DataType::kF16, kBf16}) BenchGemv(report, type);
  for (const int64_t rows : {int64_t{1}, int64_t{64}}) BenchTopK(report, rows);
  const cuda::Blas blas;
  for (const int64_t size : {int64_t{1024}, int64_t{2048}, int64_t{4096}, int64_t{8192}}) {
    BenchSgemm(report, blas, size);
  }
  BenchConv2d(report, 32, 64, 56);
  BenchConv2d(report, 32, 256, 14);
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main() { return penstock::bench::Run(); }
