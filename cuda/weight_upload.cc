#include "cuda/weight_upload.h"

#include <algorithm>
#include <array>

#include "core/base/check.h"
#include "core/tensor/dequantize.h"
#include "cuda/cuda_check.h"

namespace penstock::cuda {
namespace {

// Small enough that threads come to a weight's end together, large enough to read and to copy.
constexpr int64_t kBufferBytes = int64_t{1} << 20;
// For each thread: one that it fills, two that are copied or wait for it.
constexpr int kBuffersPerThread = 3;
constexpr int64_t kPieceElements = 8192;  // turned at once: whole blocks of any type

}  // namespace

WeightUpload::WeightUpload(DataType type, BaseAllocator& device_memory, int threads)
    : type_(type),
      device_memory_(device_memory),
      pool_(threads),
      buffers_(static_cast<size_t>(pool_.num_threads() * kBuffersPerThread)) {
  CUDA_CHECK(cudaGetDevice(&device_));
  void* pinned = nullptr;
  CUDA_CHECK(cudaMallocHost(&pinned, buffers_.size() * kBufferBytes));
  pinned_ = static_cast<uint8_t*>(pinned);
  for (size_t i = 0; i < buffers_.size(); ++i) {
    buffers_[i].pinned = pinned_ + i * kBufferBytes;
    queue_.push_back(&buffers_[i]);
  }
}

WeightUpload::~WeightUpload() {
  stream_.Synchronize();
  CUDA_CHECK(cudaFreeHost(pinned_));
}

absl::StatusOr<Tensor> WeightUpload::Upload(const WeightStream& host) {
  PENSTOCK_ASSIGN_OR_RETURN(Tensor device, Tensor::Make(type_, host.shape, device_memory_));
  const int64_t element = Info(type_).block_bytes;
  const int64_t part = kBufferBytes / element;
  const int64_t elements = host.shape.num_elements();
  auto* place = static_cast<uint8_t*>(device.raw());
  // One part, but for a pool without threads, which hands out all of them at once.
  pool_.ParallelFor((elements + part - 1) / part, 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * part; first < std::min(end * part, elements); first += part) {
      const int64_t count = std::min(part, elements - first);
      Buffer* const buffer = Take();
      Turn(host, first, count, buffer->pinned);
      Send(buffer, count * element, place + first * element);
    }
  });
  return device;
}

WeightUpload::Buffer* WeightUpload::Take() {
  Buffer* buffer = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    PENSTOCK_CHECK(!queue_.empty());  // there are more than threads
    buffer = queue_.front();
    queue_.pop_front();
  }
  buffer->copied.Synchronize();
  return buffer;
}

void WeightUpload::Send(Buffer* buffer, int64_t bytes, void* place) {
  CUDA_CHECK(cudaSetDevice(device_));  // each thread has its own
  std::lock_guard<std::mutex> lock(mutex_);
  CUDA_CHECK(cudaMemcpyAsync(place, buffer->pinned, static_cast<size_t>(bytes),
                             cudaMemcpyHostToDevice, stream_.get()));
  stream_.Record(buffer->copied);
  queue_.push_back(buffer);
}

void WeightUpload::Turn(const WeightStream& host, int64_t first, int64_t count,
                        uint8_t* out) const {
  if (host.type == type_) return host.read(first, count, out);
  const DataTypeInfo from = Info(host.type);
  const int64_t element = Info(type_).block_bytes;
  alignas(64) std::array<uint8_t, kPieceElements * sizeof(float)> stored;
  std::array<float, kPieceElements> values;
  PENSTOCK_CHECK_LE(kPieceElements / from.block * from.block_bytes,
                    static_cast<int64_t>(stored.size()));
  for (int64_t at = 0; at < count; at += kPieceElements) {
    const int64_t size = std::min(kPieceElements, count - at);
    uint8_t* const to = out + at * element;
    host.read(first + at, size, stored.data());
    if (type_ == DataType::kF32) {
      Dequantize(host.type, stored.data(), size, reinterpret_cast<float*>(to));
      continue;
    }
    Dequantize(host.type, stored.data(), size, values.data());
    auto* const halves = reinterpret_cast<uint16_t*>(to);
    for (int64_t i = 0; i < size; ++i) {
      const float value = values[static_cast<size_t>(i)];
      halves[i] = type_ == DataType::kF16 ? FloatToHalf(value) : FloatToBFloat16(value);
    }
  }
}

}  // namespace penstock::cuda
