// Weights from a file in the page cache into the GPU: WeightUpload with rings of several sizes, for
// types that are copied and types that are turned, beside the ceilings of the same run (pread by
// all threads, copies of pinned memory). A run's result is checked before its time counts. usage:
// cuda_load_bench FILE GB [sweep] FILE is written if it is not there. Bytes are the file's.
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/base/check.h"
#include "core/io/mmap_file.h"
#include "core/kernels/dequantize.h"
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

void MeasureReading(ThreadPool& pool, const std::string& path, int64_t bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY);
  for (const int64_t part : {kMib / 4, kMib}) {
    double best = 0;
    for (int run = 0; run < 3; ++run) {
      best = std::max(best, Rate(pool, bytes, part, [&](int64_t at) {
                        thread_local std::vector<uint8_t> to(static_cast<size_t>(kMib));
                        PENSTOCK_CHECK_EQ(::pread(fd, to.data(), part, at), part);
                      }));
    }
    std::printf("pread, %ld threads, parts of %ld KiB: %.1f GB/s\n",
                static_cast<int64_t>(pool.num_threads()), part / 1024, best);
  }
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
void Check(ThreadPool& pool, const WeightStream& host, const Tensor& device) {
  const int64_t rows = host.shape[0];
  for (int64_t row = 0; row < rows;
       row += std::max<int64_t>(1, std::min(rows / 97, rows - 1 - row))) {
    HostAllocator memory;
    const Tensor expected = *Tensor::Make(device.type(), {1, kColumns}, memory);
    const Tensor found = *Tensor::Make(device.type(), {1, kColumns}, memory);
    cpu::Dequantize(pool, host.tensor.Slice(row, 1), expected);
    CUDA_CHECK(cudaMemcpy(const_cast<void*>(found.raw()), device.Slice(row, 1).raw(),
                          static_cast<size_t>(found.bytes()), cudaMemcpyDeviceToHost));
    if (std::memcmp(found.raw(), expected.raw(), static_cast<size_t>(found.bytes())) == 0) continue;
    std::printf("row %ld of a tensor of %s is wrong\n", row, std::string(Name(host.type)).c_str());
    std::exit(1);
  }
}

void MeasureUpload(ThreadPool& pool, PoolAllocator& memory, const std::shared_ptr<MmapFile>& file,
                   DataType from, const cuda::UploadRing& ring) {
  const std::vector<WeightStream> streams = TensorsOf(file, from);
  std::vector<double> seconds;
  double making = 0;
  int64_t bytes = 0;
  for (int run = -1; run < 3; ++run) {
    memory.ReleaseFree();
    std::vector<Tensor> tensors;
    const double start = Now();
    {
      cuda::WeightUpload upload(DataType::kBF16, memory, ring);
      making = Now() - start;
      for (const WeightStream& stream : streams) {
        tensors.push_back(*upload.Upload(stream));
      }
    }
    if (run >= 0) seconds.push_back(Now() - start);
    if (run >= 0) continue;
    for (size_t i = 0; i < streams.size(); ++i) Check(pool, streams[i], tensors[i]);
  }
  for (const WeightStream& stream : streams) bytes += stream.tensor.bytes();
  std::sort(seconds.begin(), seconds.end());
  std::printf("%-5s %7d %8d %6ld %5d %8.1f %8.1f %8.1f\n", std::string(Name(from)).c_str(),
              ring.threads, ring.buffers_per_thread, ring.buffer_bytes / 1024, ring.lanes,
              making * 1e3, static_cast<double>(bytes) / seconds[1] * 1e-9,
              static_cast<double>(bytes) / (seconds[1] - making) * 1e-9);
  std::fflush(stdout);
}

int Main(const std::string& path, int64_t gigabytes, bool sweep) {
  const int64_t bytes = gigabytes << 30;
  if (::access(path.c_str(), R_OK) != 0) WriteFile(path.c_str(), bytes);
  PrintDevice();
  ThreadPool pool(0);
  MeasureReading(pool, path, bytes);
  MeasureCopies();
  const std::unique_ptr<PoolAllocator> memory = *MakeCudaAllocator(0);
  const auto file = *MmapFile::Open(path);
  std::printf("%-5s %7s %8s %6s %5s %8s %8s %8s\n", "type", "threads", "buffers", "KiB", "lanes",
              "made, ms", "GB/s", "without");
  cuda::UploadRing plain;
  plain.threads = pool.num_threads();
  for (const DataType type : {DataType::kBF16, DataType::kF32, DataType::kF16, DataType::kQ8_0,
                              DataType::kQ4_1, DataType::kQ4_K, DataType::kQ6_K}) {
    MeasureUpload(pool, *memory, file, type, plain);
  }
  if (!sweep) return 0;
  for (const int64_t kib : {512, 1024, 2048}) {
    for (const int buffers : {2, 3}) {
      for (const int lanes : {1, 2, 4}) {
        const cuda::UploadRing ring = {plain.threads, buffers, kib * 1024, lanes};
        MeasureUpload(pool, *memory, file, DataType::kBF16, ring);
        MeasureUpload(pool, *memory, file, DataType::kQ8_0, ring);
      }
    }
  }
  for (const int threads : {plain.threads / 2, plain.threads * 3 / 4}) {
    cuda::UploadRing ring = plain;
    ring.threads = threads;
    MeasureUpload(pool, *memory, file, DataType::kBF16, ring);
  }
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: cuda_load_bench FILE GB [sweep]\n");
    return 2;
  }
  return penstock::bench::Main(argv[1], std::atoll(argv[2]),
                               argc > 3 && std::string(argv[3]) == "sweep");
}
