// Weights from a file in the page cache into the GPU: WeightUpload with rings of several sizes,
// beside the ceilings of the same run (pread, copies of pinned memory, both at once). A run's
// result is checked before its time counts. usage:
//   cuda_load_bench FILE GB [sweep]: tensors of types that are copied and types that are turned;
//     FILE is written if it is not there
//   cuda_load_bench MODEL.gguf [READERS,BUFFERS,KIB ...]: a model of the Llama family as a stage
//     loads it, the making of the ring, of its tensors on the GPU and the last copy included
// Bytes are the file's.
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "core/base/check.h"
#include "core/io/mmap_file.h"
#include "core/io/model_file.h"
#include "core/kernels/dequantize.h"
#include "core/model/llama/llama_weight.h"
#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "cuda/weight_upload.h"
#include "tests/bench/cuda_bench.h"

namespace penstock::bench {
namespace {

constexpr int64_t kMib = int64_t{1} << 20;
constexpr int64_t kTensorBytes = 180 * kMib;
constexpr int64_t kColumns = 4096;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Small finite values in every type: the upper bits of no half are all set.
void WriteFile(const char* path, int64_t bytes) {
  std::vector<uint32_t> part(static_cast<size_t>(16 * kMib / 4));
  uint32_t state = 1;
  for (uint32_t& word : part) word = (state = state * 1664525 + 1013904223) & 0xbfffbfff;
  const int fd = ::open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  PENSTOCK_CHECK_GE(fd, 0);
  for (int64_t done = 0; done < bytes; done += 16 * kMib) {
    part[0] = static_cast<uint32_t>(done / kMib);
    PENSTOCK_CHECK_EQ(::write(fd, part.data(), part.size() * 4), 16 * kMib);
  }
  ::close(fd);
}

// Every thread's share of `bytes`, in parts of `part`; the rate in GB/s.
template <typename Read>
double Rate(ThreadPool& pool, int64_t bytes, int64_t part, const Read& read) {
  const double start = Now();
  pool.ParallelFor(bytes / part, 1, [&](int64_t begin, int64_t /*end*/) { read(begin * part); });
  return static_cast<double>(bytes) / (Now() - start) * 1e-9;
}

// By all threads into a buffer each, which stays in the cache; by some into a ring, first alone and
// then while the ring is copied, where neither waits for the other.
void MeasureReading(ThreadPool& pool, const std::string& path, int64_t bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY);
  double best = 0;
  for (int run = 0; run < 3; ++run) {
    best = std::max(best, Rate(pool, bytes, kMib, [&](int64_t at) {
                      thread_local std::vector<uint8_t> to(static_cast<size_t>(kMib));
                      PENSTOCK_CHECK_EQ(::pread(fd, to.data(), kMib, at), kMib);
                    }));
  }
  std::printf("pread, %d threads, parts of 1024 KiB: %.1f GB/s\n", pool.num_threads(), best);

  constexpr int64_t kBuffers = 32;
  void* ring = nullptr;
  void* device = nullptr;
  CUDA_CHECK(cudaMallocHost(&ring, static_cast<size_t>(kBuffers * kMib)));
  CUDA_CHECK(cudaMalloc(&device, static_cast<size_t>(kBuffers * kMib)));
  auto* const buffers = static_cast<uint8_t*>(ring);
  for (const int readers : {4, 6, 8, 10, 12, 16}) {
    ThreadPool some(readers);
    std::atomic<int64_t> next = 0;
    const auto read = [&](int64_t at) {
      PENSTOCK_CHECK_EQ(::pread(fd, buffers + next++ % kBuffers * kMib, kMib, at), kMib);
    };
    const double alone = Rate(some, bytes, kMib, read);
    std::atomic<bool> is_over = false;
    std::atomic<int64_t> copied = 0;
    std::thread copier([&] {
      const CudaStream stream;
      for (int64_t i = 0; !is_over; ++i) {
        const int64_t at = i % kBuffers * kMib;
        CUDA_CHECK(cudaMemcpyAsync(static_cast<uint8_t*>(device) + at, buffers + at, kMib,
                                   cudaMemcpyHostToDevice, stream.get()));
        if (i % 8 < 7) continue;
        stream.Synchronize();
        copied += 8;
      }
    });
    while (copied == 0) std::this_thread::yield();
    const int64_t before = copied;
    const double start = Now();
    const double together = Rate(some, bytes, kMib, read);
    const double copies = static_cast<double>((copied - before) * kMib) / (Now() - start) * 1e-9;
    is_over = true;
    copier.join();
    std::printf("pread, %2d threads into a ring: %.1f GB/s; %.1f beside copies at %.1f GB/s\n",
                readers, alone, together, copies);
  }
  CUDA_CHECK(cudaFree(device));
  CUDA_CHECK(cudaFreeHost(ring));
  ::close(fd);
}

void MeasureCopies() {
  for (const int64_t mib : {8, 16, 32, 64}) {
    void* pinned = nullptr;
    void* device = nullptr;
    const auto bytes = static_cast<size_t>(mib * kMib);
    double start = Now();
    CUDA_CHECK(cudaMallocHost(&pinned, bytes));
    const double making = Now() - start;
    CUDA_CHECK(cudaMalloc(&device, bytes));
    const CudaStream stream;
    constexpr int kCopies = 32;
    for (int i = -1; i < kCopies; ++i) {
      if (i == 0) stream.Synchronize();
      if (i == 0) start = Now();
      CUDA_CHECK(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, stream.get()));
    }
    stream.Synchronize();
    std::printf("pinned memory of %ld MiB: made in %.1f ms, copied at %.1f GB/s\n", mib,
                making * 1e3, kCopies * static_cast<double>(bytes) / (Now() - start) * 1e-9);
    CUDA_CHECK(cudaFree(device));
    CUDA_CHECK(cudaFreeHost(pinned));
  }
}

// The file as tensors of a type, one behind the other.
std::vector<WeightStream> TensorsOf(const std::shared_ptr<MmapFile>& file, DataType type) {
  std::vector<WeightStream> streams;
  const int64_t row_bytes = kColumns / Info(type).block * Info(type).block_bytes;
  const int64_t rows = kTensorBytes / row_bytes;
  for (int64_t at = 0; at + rows * row_bytes <= file->size(); at += rows * row_bytes) {
    streams.push_back(WeightStream::OfFile(
        file, Tensor::Borrow(const_cast<uint8_t*>(file->data()) + at, type, {rows, kColumns})));
  }
  return streams;
}

// Rows at the tensor's ends and in between.
void Check(ThreadPool& pool, const Tensor& host, const Tensor& device) {
  const int64_t rows = host.dim(0);
  const int64_t columns = host.dim(1);
  for (int64_t row = 0; row < rows;
       row += std::max<int64_t>(1, std::min(rows / 97, rows - 1 - row))) {
    HostAllocator memory;
    const Tensor expected = *Tensor::Make(device.type(), {1, columns}, memory);
    const Tensor found = *Tensor::Make(device.type(), {1, columns}, memory);
    cpu::Dequantize(pool, host.Slice(row, 1), 0, {}, expected);
    CUDA_CHECK(cudaMemcpy(const_cast<void*>(found.raw()), device.Slice(row, 1).raw(),
                          static_cast<size_t>(found.bytes()), cudaMemcpyDeviceToHost));
    if (std::memcmp(found.raw(), expected.raw(), static_cast<size_t>(found.bytes())) == 0) continue;
    std::printf("row %ld of a tensor of %s is wrong\n", row,
                std::string(Name(host.type())).c_str());
    std::exit(1);
  }
}

void MeasureUpload(ThreadPool& pool, PoolAllocator& memory, const std::shared_ptr<MmapFile>& file,
                   DataType from, const cuda::UploadRing& ring) {
  const std::vector<WeightStream> streams = TensorsOf(file, from);
  std::vector<double> seconds;
  int64_t bytes = 0;
  for (int run = -1; run < 3; ++run) {
    memory.ReleaseFree();
    std::vector<Tensor> tensors;
    const double start = Now();
    {
      cuda::WeightUpload upload(DataType::kBF16, memory, ring);
      for (const WeightStream& stream : streams) tensors.push_back(*upload.Upload(stream));
    }
    if (run >= 0) seconds.push_back(Now() - start);
    if (run >= 0) continue;
    for (size_t i = 0; i < streams.size(); ++i) Check(pool, streams[i].tensor, tensors[i]);
  }
  for (const WeightStream& stream : streams) bytes += stream.tensor.bytes();
  std::sort(seconds.begin(), seconds.end());
  std::printf("%-5s %7d %8d %6ld %8.1f\n", std::string(Name(from)).c_str(), ring.threads,
              ring.buffers, ring.buffer_bytes / 1024,
              static_cast<double>(bytes) / seconds[1] * 1e-9);
  std::fflush(stdout);
}

int MeasureTypes(const std::string& path, int64_t gigabytes, bool sweep) {
  const int64_t bytes = gigabytes << 30;
  if (::access(path.c_str(), R_OK) != 0) WriteFile(path.c_str(), bytes);
  PrintDevice();
  ThreadPool pool(0);
  MeasureReading(pool, path, bytes);
  MeasureCopies();
  const std::unique_ptr<PoolAllocator> memory = *MakeCudaAllocator(0);
  const auto file = *MmapFile::Open(path);
  std::printf("%-5s %7s %8s %6s %8s\n", "type", "readers", "buffers", "KiB", "GB/s");
  for (const DataType type : {DataType::kBF16, DataType::kF32, DataType::kF16, DataType::kQ8_0,
                              DataType::kQ4_1, DataType::kQ4_K, DataType::kQ6_K}) {
    MeasureUpload(pool, *memory, file, type, {});
  }
  if (!sweep) return 0;
  for (const int readers : {6, 8, 12, 16}) {
    MeasureUpload(pool, *memory, file, DataType::kBF16, {readers});
    MeasureUpload(pool, *memory, file, DataType::kQ8_0, {readers});
  }
  for (const int buffers : {16, 24, 48}) {
    MeasureUpload(pool, *memory, file, DataType::kBF16, {0, buffers});
    MeasureUpload(pool, *memory, file, DataType::kQ8_0, {0, buffers});
  }
  return 0;
}

void CheckModel(ThreadPool& pool, const LlamaWeight& host, const LlamaWeight& device) {
  const auto check = [&](const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
    PENSTOCK_CHECK_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) Check(pool, a[i], b[i]);
  };
  check({host.embedding.table, host.lm_head}, {device.embedding.table, device.lm_head});
  for (size_t i = 0; i < host.layers.size(); ++i) {
    const LayerWeight& a = host.layers[i];
    const LayerWeight& b = device.layers[i];
    check(a.attention.qkv.tensors, b.attention.qkv.tensors);
    check(a.ffn.gate_up.tensors, b.ffn.gate_up.tensors);
    check({a.attention.output, a.ffn.down}, {b.attention.output, b.ffn.down});
  }
}

int MeasureModel(const std::string& path, const std::vector<cuda::UploadRing>& rings) {
  PrintDevice();
  ThreadPool pool(0);
  HostAllocator host;
  const ModelFile file = *OpenModel(path);
  const LayerRange all = {0, file.config.num_layers};
  LlamaWeight expected(all);
  PENSTOCK_CHECK(expected.Load({*file.weights, file.config, host}, "").ok());
  const double gigabytes = static_cast<double>(expected.bytes()) * 1e-9;
  const std::unique_ptr<PoolAllocator> memory = *MakeCudaAllocator(0);
  std::printf("%7s %8s %6s %8s %8s %8s, of %.3f GB\n", "readers", "buffers", "KiB", "ms",
              "least ms", "GB/s", gigabytes);
  for (const cuda::UploadRing& ring : rings) {
    std::vector<double> seconds;
    for (int run = 0; run < 5; ++run) {
      memory->ReleaseFree();
      LlamaWeight weight(all);
      const double start = Now();
      {
        cuda::WeightUpload upload(DataType::kBF16, *memory, ring);
        const auto place = [&](const WeightStream& packed) { return upload.Upload(packed); };
        PENSTOCK_CHECK(weight.Load({*file.weights, file.config, host, place}, "").ok());
      }
      seconds.push_back(Now() - start);
      if (run == 0) CheckModel(pool, expected, weight);
    }
    std::sort(seconds.begin(), seconds.end());
    std::printf("%7d %8d %6ld %8.1f %8.1f %8.1f\n", ring.threads, ring.buffers,
                ring.buffer_bytes / 1024, seconds[2] * 1e3, seconds[0] * 1e3,
                gigabytes / seconds[2]);
    std::fflush(stdout);
  }
  return 0;
}

int Main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.empty() || (arguments.size() < 2 && !arguments[0].ends_with(".gguf"))) {
    std::fprintf(stderr,
                 "usage: cuda_load_bench FILE GB [sweep] | MODEL.gguf [READERS,BUFFERS,KIB ...]\n");
    return 2;
  }
  if (!arguments[0].ends_with(".gguf")) {
    return MeasureTypes(arguments[0], std::atoll(argv[2]),
                        arguments.size() > 2 && arguments[2] == "sweep");
  }
  std::vector<cuda::UploadRing> rings(1);
  for (size_t i = 1; i < arguments.size(); ++i) {
    cuda::UploadRing& ring = rings.emplace_back();
    std::sscanf(arguments[i].c_str(), "%d,%d,%ld", &ring.threads, &ring.buffers,
                &ring.buffer_bytes);
    ring.buffer_bytes *= 1024;
  }
  return MeasureModel(arguments[0], rings);
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Main(argc, argv); }
