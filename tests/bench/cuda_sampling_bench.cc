// The ends of a step on the GPU: sampling over a large vocabulary, its parameters' copy included,
// and bias_rope at the shape of an 8B model. Tokens are checked against the CPU twin before
// anything is timed. usage: cuda_sampling_bench  Prints one JSON line a case.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/kernels/sampling.h"
#include "core/tensor/allocator.h"
#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "cuda/kernels/launchers.h"
#include "cuda/sampling_buffer.h"
#include "tests/bench/cuda_bench.h"

namespace penstock::bench {
namespace {

constexpr int64_t kVocab = 128256;

struct Case {
  const char* name;
  SamplingParams params;
  int32_t top = 0;
};

SamplingParams Params(float temperature, int32_t top_k, float top_p, float min_p = 0) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.min_p = min_p;
  params.seed = 7;
  return params;
}

// Of one call, by events around many: the median of some such runs.
double Microseconds(const CudaStream& stream, const std::function<void()>& enqueue) {
  const CudaEvent start(CudaEvent::Timing::kOn);
  const CudaEvent end(CudaEvent::Timing::kOn);
  std::vector<double> times;
  for (int run = 0; run < 9; ++run) {
    constexpr int kCalls = 50;
    stream.Record(start);
    for (int i = 0; i < kCalls; ++i) enqueue();
    stream.Record(end);
    end.Synchronize();
    times.push_back(end.MillisecondsSince(start) * 1e3 / kCalls);
  }
  std::nth_element(times.begin(), times.begin() + 4, times.end());
  return times[4];
}

void BenchSampling(const CudaStream& stream, cuda::SamplingBuffer& buffer, const Tensor& logits,
                   const Case& one) {
  const int64_t count = logits.dim(0);
  std::vector<SamplingRow> rows(static_cast<size_t>(count));
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r].params = &one.params;
    rows[r].position = static_cast<int64_t>(r);
    rows[r].top = one.top;
  }
  const SamplingOutput out = {
      Uninitialized(DataType::kI32, {count}), Uninitialized(DataType::kF32, {count}),
      Uninitialized(DataType::kI32, {count, 100}), Uninitialized(DataType::kF32, {count, 100})};
  const auto run = [&] { cuda::LaunchSampling(buffer, stream.get(), logits, rows, out); };
  run();
  stream.Synchronize();
  HostAllocator allocator;
  const auto host = [&](DataType type, const Shape& shape) {
    return Tensor::Make(type, shape, allocator).value();
  };
  Tensor values = host(DataType::kF32, logits.shape());
  CUDA_CHECK(cudaMemcpy(values.raw(), logits.raw(), static_cast<size_t>(values.bytes()),
                        cudaMemcpyDeviceToHost));
  std::vector<int32_t> tokens(rows.size());
  CUDA_CHECK(cudaMemcpy(tokens.data(), out.tokens.raw(), tokens.size() * sizeof(int32_t),
                        cudaMemcpyDeviceToHost));
  const SamplingOutput twin = {host(DataType::kI32, {count}), host(DataType::kF32, {count}),
                               host(DataType::kI32, {count, 100}),
                               host(DataType::kF32, {count, 100})};
  ThreadPool pool(8);
  cpu::Sampling(pool, values, rows, twin);
  if (std::memcmp(tokens.data(), twin.tokens.raw(), tokens.size() * sizeof(int32_t)) != 0) {
    std::printf("sampling, %s: not the tokens of the CPU twin\n", one.name);
    std::exit(1);
  }
  std::printf("{\"kernel\": \"sampling\", \"case\": \"%s\", \"rows\": %ld, \"us\": %.1f}\n",
              one.name, count, Microseconds(stream, run));
  std::fflush(stdout);
}

void BenchBiasRope(const CudaStream& stream, int64_t tokens) {
  const HeadLayout heads = {32, 8, 128};
  const Tensor qkv = Random(DataType::kBF16, {tokens, heads.width()}, 1);
  const Tensor table = Random(DataType::kF32, {tokens, heads.head_dim}, 2);
  const Tensor none;
  const double us = GraphMicroseconds(stream, [&] {
    for (int i = 0; i < 20; ++i) {
      cuda::LaunchBiasRope(stream.get(), {qkv, none, none, none, 1e-6F, table, heads});
    }
  });
  const double bytes =
      static_cast<double>(tokens) * 4.0 * static_cast<double>(heads.q_size() + heads.kv_size());
  std::printf(
      "{\"kernel\": \"bias_rope\", \"shape\": \"%ld x 32+8 x 128 bf16\", \"us\": %.2f, "
      "\"gb_s\": %.0f}\n",
      tokens, us / 20, bytes / (us / 20) * 1e-3);
}

int Run() {
  PrintDevice();
  const CudaStream stream;
  const auto memory = MakeCudaAllocator(0);
  PENSTOCK_CHECK(memory.ok());
  const auto buffer = cuda::SamplingBuffer::Make(kVocab, **memory);
  PENSTOCK_CHECK(buffer.ok());
  const Case cases[] = {{"greedy", Params(0, 0, 1)},
                        {"greedy, 20 logprobs", Params(0, 0, 1), 20},
                        {"temperature 0.8", Params(0.8F, 0, 1)},
                        {"top_k 50", Params(0.8F, 50, 1)},
                        {"top_k 50, top_p 0.9", Params(0.8F, 50, 0.9F)},
                        {"top_p 0.9", Params(0.8F, 0, 0.9F)},
                        {"min_p 0.05", Params(0.8F, 0, 1, 0.05F)},
                        {"top_p 0.9, temperature 2", Params(2, 0, 0.9F)},
                        {"top_k 5000", Params(0.8F, 5000, 1)}};
  for (const int64_t rows : {int64_t{1}, int64_t{64}, int64_t{256}}) {
    const Tensor logits = Random(DataType::kF32, {rows, kVocab}, 3, 4.0F);
    for (const Case& one : cases) BenchSampling(stream, **buffer, logits, one);
  }
  for (const int64_t tokens : {int64_t{1}, int64_t{64}, int64_t{8192}}) {
    BenchBiasRope(stream, tokens);
  }
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main() { return penstock::bench::Run(); }
