// The kernels that stage_bench does not show: the padded prefill attention's, the library's and the
// sampler, on the CPU backend. usage: kernel_bench [THREADS]; prints one JSON line a case: time,
// rate, and the plain reference's time over it where there is one. Each result is checked before it
// is timed.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "core/kernels/batched_gemm.h"
#include "core/kernels/conv2d.h"
#include "core/kernels/gemv.h"
#include "core/kernels/linear.h"
#include "core/kernels/mask_scale_softmax.h"
#include "core/kernels/sampling.h"
#include "core/kernels/sgemm.h"
#include "tests/support/sampling_reference.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)
using Clock = std::chrono::steady_clock;

constexpr int kRuns = 7;

double MedianSeconds(const std::function<void()>& work) {
  work();
  std::vector<double> times;
  for (int run = 0; run < kRuns; ++run) {
    const Clock::time_point start = Clock::now();
    work();
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// `amount` of flops or bytes a call.
void Report(const char* kernel, const std::string& shape, const char* unit, double amount,
            const std::function<void()>& work, const std::function<void()>& plain = nullptr) {
  const double seconds = MedianSeconds(work);
  std::printf("{\"kernel\": \"%s\", \"shape\": \"%s\", \"ms\": %.3f, \"%s\": %.1f", kernel,
              shape.c_str(), seconds * 1e3, unit, amount / seconds * 1e-9);
  if (plain) std::printf(", \"times_plain\": %.1f", MedianSeconds(plain) / seconds);
  std::printf("}\n");
}

void CheckEqual(const Tensor& out, const Tensor& reference) {
  const std::vector<float> values = ToVector(reference);
  PENSTOCK_CHECK_LE(RelativeError(out, {values.begin(), values.end()}), kFloatTolerance);
}

void BenchBatchedGemm(ThreadPool& pool, int64_t batch, int64_t m, int64_t n, int64_t k,
                      bool transpose_b) {
  const Tensor a = Random({batch, m, k}, 1);
  const Tensor b = Random(transpose_b ? Shape({batch, n, k}) : Shape({batch, k, n}), 2);
  const Tensor out = Poisoned({batch, m, n});
  const Tensor reference = Poisoned({batch, m, n});
  const auto work = [&] { cpu::BatchedGemm(pool, a, b, transpose_b, 1.0f, out); };
  const auto plain = [&] { cpu::BatchedGemmReference(pool, a, b, transpose_b, 1.0f, reference); };
  work();
  plain();
  CheckEqual(out, reference);
  Report("batched_gemm",
         absl::StrCat(batch, " x ", m, " x ", n, " x ", k, transpose_b ? ", b transposed" : ""),
         "gflop_s", 2.0 * static_cast<double>(batch * m * n * k), work, plain);
}

void BenchSgemm(ThreadPool& pool, int64_t size) {
  const Tensor a = Random({size, size}, 1);
  const Tensor b = Random({size, size}, 2);
  const Tensor out = Poisoned({size, size});
  const Tensor reference = Poisoned({size, size});
  const auto work = [&] { cpu::Sgemm(pool, 1.0f, a, b, 0.0f, out); };
  work();
  cpu::SgemmReference(pool, 1.0f, a, b, 0.0f, reference);
  CheckEqual(out, reference);
  Report("sgemm", absl::StrCat(size, " x ", size, " x ", size), "gflop_s",
         2.0 * static_cast<double>(size * size * size), work);
}

void BenchGemv(ThreadPool& pool, DataType type) {
  const int64_t size = 4096;
  const Tensor weight = As(type, Random({size, size}, 1));
  const Tensor x = Random({size}, 2);
  const Tensor out = Poisoned({size});
  const Tensor reference = Poisoned({size});
  const auto work = [&] { cpu::Gemv(pool, weight, x, out); };
  const auto plain = [&] { cpu::GemvReference(pool, weight, x, reference); };
  work();
  plain();
  CheckEqual(out, reference);
  Report("gemv", absl::StrCat(size, " x ", size, " ", Abs(Name(type))), "gb_s",
         static_cast<double>(weight.bytes()), work, plain);
}

void BenchLinear(ThreadPool& pool, const Tensor& weight, int64_t tokens) {
  const int64_t in = weight.dim(1);
  const int64_t size = weight.dim(0);
  const DataType type = weight.type();
  const Tensor x = Random({tokens, in}, 2);
  const Tensor out = Poisoned({tokens, size});
  const Tensor reference = Poisoned({tokens, size});
  const auto work = [&] { cpu::Linear(pool, x, weight, out); };
  work();
  cpu::LinearReference(pool, x, weight, reference);
  CheckEqual(out, reference);
  Report("linear", absl::StrCat(tokens, " x ", size, " x ", in, " ", Abs(Name(type))), "gflop_s",
         2.0 * static_cast<double>(tokens * weight.num_elements()), work);
}

void BenchSoftmax(ThreadPool& pool) {
  const int64_t heads = 9;
  const int64_t length = 512;
  const Tensor scores = Random({1, heads, length, length}, 1);
  Tensor mask = Make(DataType::kU8, {1, length, length});
  for (int64_t at = 0; at < mask.num_elements(); ++at) {
    static_cast<uint8_t*>(mask.raw())[at] = at % length <= at / length ? 1 : 0;
  }
  const auto work = [&] { cpu::MaskScaleSoftmax(pool, scores, mask, 0.125f); };
  work();
  const std::vector<float> weights = ToVector(scores);
  for (int64_t row = 0; row < heads * length; ++row) {
    double sum = 0;
    for (int64_t j = 0; j < length; ++j) sum += weights[static_cast<size_t>(row * length + j)];
    PENSTOCK_CHECK_LE(std::abs(sum - 1.0), kFloatTolerance);
  }
  Report("mask_scale_softmax", absl::StrCat(heads, " x ", length, " x ", length), "gb_s",
         2.0 * static_cast<double>(scores.bytes()), work);
}

void BenchConv2d(ThreadPool& pool) {
  const Tensor in = Random({1, 64, 56, 56}, 1);
  const Tensor weight = Random({64, 64, 3, 3}, 2);
  const Tensor out = Poisoned({1, 64, 56, 56});
  Conv2dOptions options;
  options.padding_y = options.padding_x = 1;
  const auto work = [&] { cpu::Conv2d(pool, in, weight, Tensor(), options, out); };
  work();
  // One place away from the border, by hand.
  double sum = 0;
  const std::vector<float> image = ToVector(in);
  const std::vector<float> taps = ToVector(weight);
  for (size_t c = 0; c < 64; ++c) {
    for (size_t at = 0; at < 9; ++at) {
      sum += double{taps[(5 * 64 + c) * 9 + at]} * image[(c * 56 + 19 + at / 3) * 56 + 29 + at % 3];
    }
  }
  const double got = ToVector(out)[(5 * 56 + 20) * 56 + 30];
  PENSTOCK_CHECK_LE(std::abs(got - sum), 1e-3);
  Report("conv2d", "1 x 64 x 56 x 56 by 64 x 64 x 3 x 3", "gflop_s",
         2.0 * static_cast<double>(out.num_elements()) * 64 * 9, work);
}

// One row, as a decode of one sequence samples it; checked against the float64 reference.
void BenchSampling(ThreadPool& pool, const char* what, int64_t vocab, const SamplingParams& params,
                   const SequenceState& state, int32_t top) {
  const Tensor logits = Random({1, vocab}, 4, 2.5f);
  std::vector<int32_t> tokens(1);
  std::vector<float> logprobs(1);
  std::vector<int32_t> top_tokens(kMaxLogprobs);
  std::vector<float> top_logprobs(kMaxLogprobs);
  const Shape shape({1, kMaxLogprobs});
  const SamplingOutput out{FromVector(tokens), FromVector(logprobs),
                           FromVector(top_tokens).Reshape(shape),
                           FromVector(top_logprobs).Reshape(shape)};
  SamplingRow row = state.Row(params);
  row.top = top;
  const auto work = [&] { cpu::Sampling(pool, logits, {&row, 1}, out); };
  work();
  PENSTOCK_CHECK_EQ(tokens[0], SamplingReference(ToVector(logits), params, state).Token());
  Report("sampling", absl::StrCat(what, ", vocabulary ", vocab), "gb_s",
         static_cast<double>(logits.bytes()), work);
}

void BenchSampling(ThreadPool& pool, int64_t vocab) {
  const SequenceState none;
  std::vector<int32_t> answer;
  for (int32_t i = 0; i < 512; ++i) answer.push_back(i * 61 % 8191);
  const SequenceState long_answer({1, 2, 3}, answer);
  SamplingParams params;
  BenchSampling(pool, "temperature 1", vocab, params, none, 0);
  BenchSampling(pool, "temperature 1, 20 logprobs", vocab, params, none, 20);
  params.temperature = 0.7f;
  params.top_k = 40;
  BenchSampling(pool, "temperature 0.7, top_k 40", vocab, params, none, 0);
  params.top_k = 0;
  params.top_p = 0.9f;
  BenchSampling(pool, "temperature 0.7, top_p 0.9", vocab, params, none, 0);
  params.temperature = 2;
  BenchSampling(pool, "temperature 2, top_p 0.9", vocab, params, none, 0);
  params = SamplingParams();
  params.temperature = 0;
  BenchSampling(pool, "greedy", vocab, params, none, 0);
  params.repetition_penalty = 1.1f;
  params.frequency_penalty = 0.2f;
  params.presence_penalty = 0.1f;
  BenchSampling(pool, "greedy, penalties over 515 tokens", vocab, params, long_answer, 0);
}

int Main(int argc, char** argv) {
  ThreadPool pool(argc > 1 ? std::atoi(argv[1]) : 0);
  BenchBatchedGemm(pool, 9, 512, 512, 64, true);
  BenchBatchedGemm(pool, 9, 512, 64, 512, false);
  BenchBatchedGemm(pool, 32, 128, 1024, 128, true);
  BenchBatchedGemm(pool, 32, 128, 128, 1024, false);
  BenchSoftmax(pool);
  BenchSgemm(pool, 1024);
  BenchGemv(pool, DataType::kF32);
  BenchGemv(pool, DataType::kF16);
  BenchGemv(pool, DataType::kBF16);
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    const Tensor weight = As(type, Random({2048, 2048}, 1));
    for (const int64_t tokens : {1, 64}) BenchLinear(pool, weight, tokens);
  }
  for (const DataType type : {DataType::kQ4_1, DataType::kQ8_0}) {
    const Tensor weight = RandomBlocks(type, {3072, 576}, 1);  // gate and up of the packaged model
    for (const int64_t tokens : {1, 2, 4, 8, 12, 16, 64}) BenchLinear(pool, weight, tokens);
    const Tensor large = RandomBlocks(type, {98304, 576}, 1);  // more than caches hold
    for (const int64_t tokens : {1, 8, 16}) BenchLinear(pool, large, tokens);
  }
  BenchConv2d(pool);
  BenchSampling(pool, 49152);
  BenchSampling(pool, 128256);
  return 0;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) { return penstock::Main(argc, argv); }
