// The attention kernels in bf16: decode in GB/s of keys and values and as a share of the read
// bandwidth measured in the same run, prefill in TFLOP/s (causal: attended positions alone).
// Both in the fastest and in the fixed order of sums, side by side. Checked on a small batch
// against the CPU twins first. usage: cuda_attention_bench [decode | prefill] Prints one JSON line
// a case; peer_attention.py prints PyTorch's for the same shapes. Calls rotate through more keys
// and values than level 2 holds.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/kernels/decoder_attention.h"
#include "core/kernels/flash_attention.h"
#include "cuda/ceilings.h"
#include "cuda/cuda_check.h"
#include "cuda/kernels/launchers.h"
#include "tests/bench/cuda_bench.h"
#include "tests/support/attention_on_gpu.h"
#include "tests/support/paged_batch.h"

namespace penstock::bench {
namespace {

using cuda::SumOrder;

constexpr DataType kBf16 = DataType::kBF16;

Tensor Upload(const std::vector<int32_t>& values, const Shape& shape) {
  const Tensor tensor = Uninitialized(DataType::kI32, shape);
  CUDA_CHECK(cudaMemcpy(const_cast<void*>(tensor.raw()), values.data(), values.size() * 4,
                        cudaMemcpyHostToDevice));
  return tensor;
}

Tensor Workspace(const HeadLayout& heads, int64_t rows, SumOrder order) {
  const int64_t bytes = cuda::DecoderAttentionWorkspace(heads, rows, order);
  const Tensor tensor = Uninitialized(DataType::kU8, {bytes});
  CUDA_CHECK(cudaMemset(const_cast<void*>(tensor.raw()), 0, static_cast<size_t>(bytes)));
  CUDA_CHECK(cudaDeviceSynchronize());
  return tensor;
}

// Rows of `tokens` new tokens and these contexts, `copies` batches of them, whose blocks are
// scattered over one cache.
struct Batches {
  Batches(const HeadLayout& layout, int64_t tokens, const std::vector<int32_t>& contexts)
      : heads(layout), rows(static_cast<int64_t>(contexts.size())) {
    const int64_t width = BlocksFor(*std::max_element(contexts.begin(), contexts.end()));
    const int64_t positions = std::accumulate(contexts.begin(), contexts.end(), int64_t{0});
    const int64_t bytes = 4 * positions * heads.kv_size();
    copies = std::clamp<int64_t>((int64_t{256} << 20) / bytes, 1, 64);
    std::vector<int32_t> blocks(static_cast<size_t>(copies * rows * width));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(1));
    kv = Random(kBf16, {copies * rows * width, 2, heads.num_kv_heads, kBlockSize, heads.head_dim},
                2);
    tables = Upload(blocks, {copies * rows, width});
    qkv = Random(kBf16, {rows * tokens, heads.width()}, 3);
    out = Uninitialized(kBf16, {rows * tokens, heads.q_size()});
    std::vector<int32_t> of_rows;
    for (int64_t r = 0; r <= rows; ++r) of_rows.push_back(static_cast<int32_t>(r * tokens));
    starts = Upload(of_rows, {rows + 1});
    lens = Upload(contexts, {rows});
  }

  template <typename Launch>
  double Microseconds(const CudaStream& stream, const Launch& launch) const {
    const int64_t calls = std::max<int64_t>(copies, 8);
    return GraphMicroseconds(
               stream,
               [&] {
                 for (int64_t i = 0; i < calls; ++i) {
                   launch(AttentionArgs{qkv, starts, lens, tables.Slice(i % copies * rows, rows),
                                        heads, kv, out});
                 }
               },
               7) /
           static_cast<double>(calls);
  }

  HeadLayout heads;
  int64_t rows;
  int64_t copies;
  Tensor kv, tables, qkv, out, starts, lens;
};

void Check() {
  const HeadLayout heads{32, 8, 128};
  testing::PagedBatch chunks(heads, {300, 1, 513}, {300, 1, 257}, 1, kBf16);
  std::vector<int32_t> contexts = {300, 1, 2000};
  while (contexts.size() < 20) contexts.push_back(contexts.back() * 7 % 611 + 1);
  testing::PagedBatch steps(heads, contexts, std::vector<int32_t>(contexts.size(), 1), 1, kBf16);
  double errors[2];
  for (testing::PagedBatch* batch : {&chunks, &steps}) {
    const bool decode = batch == &steps;
    if (decode) {
      cpu::DecoderAttention(testing::Pool(), batch->args());
    } else {
      cpu::FlashAttention(testing::Pool(), batch->args());
    }
    const std::vector<float> twin = testing::ToVector(batch->out());
    errors[decode] = 0;
    for (const SumOrder order : {SumOrder::kFastest, SumOrder::kFixed}) {
      testing::AttendOnGpu(
          kBf16, batch->args(), [&](const testing::GpuCall& gpu, const AttentionArgs& args) {
            if (!decode) return cuda::LaunchFlashAttention(gpu.stream(), args, order);
            const Tensor workspace = Workspace(heads, static_cast<int64_t>(contexts.size()), order);
            cuda::LaunchDecoderAttention(gpu.stream(), args, workspace, order);
            CUDA_CHECK(cudaStreamSynchronize(gpu.stream()));
          });
      const double error = testing::RelativeError(batch->out(), {twin.begin(), twin.end()});
      errors[decode] = error <= errors[decode] ? errors[decode] : error;
    }
  }
  std::printf("{\"error_of_flash\": %.2g, \"error_of_decode\": %.2g}\n", errors[0], errors[1]);
  if (errors[0] <= 1e-2 && errors[1] <= 1e-2) return;
  std::printf("wrong\n");
  std::exit(1);
}

void Decode(const CudaStream& stream, double bandwidth, const HeadLayout& heads,
            const std::vector<int32_t>& contexts, const char* name) {
  const Batches batches(heads, 1, contexts);
  const int64_t rows = batches.rows;
  const auto micros = [&](SumOrder order) {
    const Tensor workspace = Workspace(heads, rows, order);
    return batches.Microseconds(stream, [&](const AttentionArgs& args) {
      cuda::LaunchDecoderAttention(stream.get(), args, workspace, order);
    });
  };
  const double us = micros(SumOrder::kFastest);
  const double fixed_us = micros(SumOrder::kFixed);
  const int64_t positions = std::accumulate(contexts.begin(), contexts.end(), int64_t{0});
  const double bytes = 4.0 * static_cast<double>(positions * heads.kv_size());
  std::printf(
      "{\"kernel\": \"decoder_attention\", \"heads\": \"%ld/%ld x %ld\", \"case\": \"%s\", "
      "\"us\": %.2f, \"gb_s\": %.0f, \"share\": %.3f, \"fixed_us\": %.2f}\n",
      heads.num_heads, heads.num_kv_heads, heads.head_dim, name, us, bytes / us * 1e-3,
      bytes / us * 1e6 / bandwidth, fixed_us);
  std::fflush(stdout);
}

void Decode(const CudaStream& stream, double bandwidth, const HeadLayout& heads, int64_t rows,
            int64_t context) {
  Decode(stream, bandwidth, heads,
         std::vector<int32_t>(static_cast<size_t>(rows), static_cast<int32_t>(context)),
         (std::to_string(rows) + "x" + std::to_string(context)).c_str());
}

// Lengths of 30 to 2000, as the serving trace has them; and short ones beside a long one.
void DecodeUneven(const CudaStream& stream, double bandwidth, const HeadLayout& heads,
                  int64_t rows) {
  std::mt19937 random(5);
  std::vector<int32_t> contexts(static_cast<size_t>(rows));
  for (int32_t& context : contexts) context = static_cast<int32_t>(30 + random() % 1971);
  Decode(stream, bandwidth, heads, contexts, (std::to_string(rows) + " of 30 to 2000").c_str());
  for (int32_t& context : contexts) context = static_cast<int32_t>(30 + random() % 200);
  contexts[contexts.size() / 2] = 32768;
  Decode(stream, bandwidth, heads, contexts,
         (std::to_string(rows - 1) + " of 30 to 229, one of 32768").c_str());
}

void Prefill(const CudaStream& stream, const HeadLayout& heads, int64_t rows, int64_t tokens,
             int64_t context) {
  const Batches batches(
      heads, tokens,
      std::vector<int32_t>(static_cast<size_t>(rows), static_cast<int32_t>(context)));
  const auto micros = [&](SumOrder order) {
    return batches.Microseconds(stream, [&](const AttentionArgs& args) {
      cuda::LaunchFlashAttention(stream.get(), args, order);
    });
  };
  const double us = micros(SumOrder::kFastest);
  const double fixed_us = micros(SumOrder::kFixed);
  const auto before = static_cast<double>(context - tokens);
  const auto own = static_cast<double>(tokens);
  const double attended = own * before + own * (own + 1) / 2;
  const double flops = 4.0 * static_cast<double>(rows * heads.q_size()) * attended;
  std::printf(
      "{\"kernel\": \"flash_attention\", \"heads\": \"%ld/%ld x %ld\", \"case\": \"%ldx%ld of "
      "%ld\", \"us\": %.1f, \"tflop_s\": %.1f, \"fixed_us\": %.1f}\n",
      heads.num_heads, heads.num_kv_heads, heads.head_dim, rows, tokens, context, us,
      flops / us * 1e-6, fixed_us);
  std::fflush(stdout);
}

void DecodeCases(const CudaStream& stream, double bandwidth) {
  const HeadLayout grouped{32, 8, 128};
  const HeadLayout multi{32, 32, 128};
  for (const int64_t rows : {1, 32}) {
    for (const int64_t context : {1024, 4096, 8192, 32768}) {
      Decode(stream, bandwidth, grouped, rows, context);
    }
  }
  Decode(stream, bandwidth, multi, 1, 1024);
  Decode(stream, bandwidth, multi, 64, 1024);
  Decode(stream, bandwidth, grouped, 64, 1024);
  Decode(stream, bandwidth, grouped, 256, 1024);
  for (const int64_t rows : {17, 64, 256}) {
    Decode(stream, bandwidth, grouped, rows, 128);
    DecodeUneven(stream, bandwidth, grouped, rows);
  }
  DecodeUneven(stream, bandwidth, multi, 64);
  Decode(stream, bandwidth, {32, 8, 64}, 32, 4096);
  Decode(stream, bandwidth, {32, 32, 96}, 32, 4096);
  Decode(stream, bandwidth, {64, 8, 128}, 32, 4096);
  Decode(stream, bandwidth, {32, 1, 128}, 1, 131072);
}

void PrefillCases(const CudaStream& stream) {
  const HeadLayout grouped{32, 8, 128};
  const HeadLayout multi{32, 32, 128};
  for (const int64_t tokens : {1024, 2048, 4096, 8192, 16384}) {
    Prefill(stream, grouped, 1, tokens, tokens);
  }
  Prefill(stream, multi, 1, 4096, 4096);
  Prefill(stream, multi, 1, 8192, 8192);
  Prefill(stream, multi, 4, 2048, 2048);
  Prefill(stream, {32, 8, 64}, 1, 4096, 4096);
  Prefill(stream, {32, 32, 96}, 1, 4096, 4096);
  Prefill(stream, grouped, 1, 2048, 32768);
  Prefill(stream, grouped, 64, 64, 1024);
}

int Run(std::string_view which) {
  PrintDevice();
  Check();
  const CudaStream stream;
  if (which != "prefill") {
    double bandwidth = 0;
    {
      const Tensor data = Random(kBf16, {int64_t{1} << 30}, 1);
      bandwidth = MeasureReadBandwidth(data);
      std::printf("{\"read_bandwidth_gb_s\": %.1f}\n", bandwidth * 1e-9);
    }
    DecodeCases(stream, bandwidth);
  }
  if (which != "decode") PrefillCases(stream);
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Run(argc > 1 ? argv[1] : ""); }
