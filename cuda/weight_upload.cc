#include "cuda/weight_upload.h"

#include <algorithm>

#include "core/base/check.h"
#include "cuda/cuda_check.h"
#include "cuda/kernels/launchers.h"

namespace penstock::cuda {

WeightUpload::WeightUpload(DataType type, BaseAllocator& device_memory, const UploadRing& ring)
    : type_(type),
      ring_(ring),
      device_memory_(device_memory),
      pool_(ring.threads),
      buffers_(static_cast<size_t>(pool_.num_threads() * ring.buffers_per_thread)) {
  PENSTOCK_CHECK_GE(ring.buffers_per_thread, 2);
  PENSTOCK_CHECK_EQ(ring.buffer_bytes % 256, 0);
  CUDA_CHECK(cudaGetDevice(&device_));
  for (int64_t i = 0; i < ring.lanes; ++i) lanes_.emplace_back().index = i;
  void* pinned = nullptr;
  const auto bytes = static_cast<size_t>(ring.buffer_bytes);
  CUDA_CHECK(cudaMallocHost(&pinned, buffers_.size() * bytes));
  pinned_ = static_cast<uint8_t*>(pinned);
  for (size_t i = 0; i < buffers_.size(); ++i) {
    buffers_[i].pinned = pinned_ + i * bytes;
    buffers_[i].lane = &lanes_[i % lanes_.size()];
    queue_.push_back(&buffers_[i]);
  }
}

WeightUpload::~WeightUpload() {
  for (Lane& lane : lanes_) lane.stream.Synchronize();
  CUDA_CHECK(cudaFreeHost(pinned_));
}

absl::StatusOr<Tensor> WeightUpload::Upload(const WeightStream& host) {
  PENSTOCK_ASSIGN_OR_RETURN(Tensor device, Tensor::Make(type_, host.shape, device_memory_));
  if (host.type != type_ && staging_.empty()) {
    PENSTOCK_ASSIGN_OR_RETURN(
        staging_, Tensor::Make(DataType::kU8, {ring_.lanes, ring_.buffer_bytes}, device_memory_));
  }
  const DataTypeInfo stored = Info(host.type);
  const int64_t part = ring_.buffer_bytes / stored.block_bytes * stored.block;
  PENSTOCK_CHECK_GT(part, 0);
  const int64_t elements = host.shape.num_elements();
  auto* place = static_cast<uint8_t*>(device.raw());
  // One part, but for a pool without threads, which hands out all of them at once.
  pool_.ParallelFor((elements + part - 1) / part, 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * part; first < std::min(end * part, elements); first += part) {
      const int64_t count = std::min(part, elements - first);
      Buffer* const buffer = Take();
      host.read(first, count, buffer->pinned);
      Send(buffer, host.type, count, place + first * Info(type_).block_bytes);
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

void WeightUpload::Send(Buffer* buffer, DataType stored, int64_t count, void* place) {
  CUDA_CHECK(cudaSetDevice(device_));  // each thread has its own
  const DataTypeInfo info = Info(stored);
  const auto bytes = static_cast<size_t>(count / info.block * info.block_bytes);
  Lane& lane = *buffer->lane;
  {
    std::lock_guard<std::mutex> lock(lane.mutex);
    const cudaStream_t stream = lane.stream.get();
    // The lane's part of the staging memory is free once the kernel before, if any, is done: the
    // stream's order.
    Tensor staged = stored == type_ ? Tensor() : staging_.Slice(lane.index, 1);
    void* const target = stored == type_ ? place : staged.raw();
    CUDA_CHECK(cudaMemcpyAsync(target, buffer->pinned, bytes, cudaMemcpyHostToDevice, stream));
    lane.stream.Record(buffer->copied);
    if (stored != type_) {
      LaunchDequantize(stream, Tensor::Borrow(target, stored, {count}, Device::kCuda),
                       Tensor::Borrow(place, type_, {count}, Device::kCuda));
    }
  }
  std::lock_guard<std::mutex> lock(mutex_);
  queue_.push_back(buffer);
}

}  // namespace penstock::cuda
