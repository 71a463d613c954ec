#include "cuda/mirrored_memory.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"
#include "cuda/cuda_check.h"

namespace penstock::cuda {
namespace {

// Bytes that take no longer than a copy of their own would take to begin.
constexpr int64_t kNear = 64 << 10;

}  // namespace

MirroredMemory::~MirroredMemory() { PENSTOCK_CHECK(blocks_.empty()); }

absl::StatusOr<void*> MirroredMemory::Allocate(int64_t bytes) {
  PENSTOCK_ASSIGN_OR_RETURN(void* const host, host_memory_.Allocate(bytes));
  const absl::StatusOr<void*> device = device_memory_.Allocate(bytes);
  if (!device.ok()) {
    host_memory_.Free(host, bytes);
    return device.status();
  }
  blocks_.push_back({static_cast<uint8_t*>(host), static_cast<uint8_t*>(*device), bytes});
  return host;
}

void MirroredMemory::Free(void* data, int64_t bytes) {
  const auto block = std::find_if(blocks_.begin(), blocks_.end(),
                                  [data](const Block& one) { return one.host == data; });
  PENSTOCK_CHECK(block != blocks_.end());
  PENSTOCK_CHECK_EQ(block->bytes, bytes);
  host_memory_.Free(block->host, bytes);
  device_memory_.Free(block->device, bytes);
  blocks_.erase(block);
}

const MirroredMemory::Block* MirroredMemory::Find(const void* host) const {
  const auto* place = static_cast<const uint8_t*>(host);
  for (const Block& block : blocks_) {
    if (place >= block.host && place < block.host + block.bytes) return &block;
  }
  return nullptr;
}

Tensor MirroredMemory::OnDevice(const Tensor& host) const {
  const Block* const block = Find(host.raw());
  PENSTOCK_CHECK(block != nullptr && host.is_contiguous());
  const int64_t offset = static_cast<const uint8_t*>(host.raw()) - block->host;
  return Tensor::Borrow(block->device + offset, host.type(), host.shape(), Device::kCuda);
}

void MirroredMemory::Join(std::span<const Tensor> parts) {
  ranges_.clear();
  for (const Tensor& part : parts) {
    const Block* const block = Find(part.raw());
    PENSTOCK_CHECK(block != nullptr);
    Range& range = ranges_.emplace_back();
    range = {block, static_cast<const uint8_t*>(part.raw()) - block->host, part.bytes(), 1, 0};
    if (part.is_contiguous()) continue;
    const int64_t element = Info(part.type()).block_bytes;
    PENSTOCK_CHECK_EQ(part.rank(), 2);
    range.bytes = part.dim(1) * element;
    range.rows = part.dim(0);
    range.stride = part.stride(0) * element;
    if ((range.stride - range.bytes) * (range.rows - 1) <= kNear) {
      range.bytes += range.stride * (range.rows - 1);
      range.rows = 1;
    }
  }
  std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) {
    return std::pair(a.block, a.begin) < std::pair(b.block, b.begin);
  });
  size_t last = 0;
  for (size_t i = 1; i < ranges_.size(); ++i) {
    Range& before = ranges_[last];
    const Range& range = ranges_[i];
    const int64_t gap = range.begin - (before.begin + before.bytes);
    if (before.block == range.block && before.rows == 1 && range.rows == 1 && gap <= kNear) {
      before.bytes = std::max(before.bytes, range.begin + range.bytes - before.begin);
    } else {
      ranges_[++last] = range;
    }
  }
  if (!ranges_.empty()) ranges_.resize(last + 1);
}

void MirroredMemory::CopyToDevice(cudaStream_t stream, std::span<const Tensor> parts) {
  Join(parts);
  for (const Range& range : ranges_) {
    uint8_t* const to = range.block->device + range.begin;
    const uint8_t* const from = range.block->host + range.begin;
    const auto bytes = static_cast<size_t>(range.bytes);
    const auto stride = static_cast<size_t>(range.stride);
    if (range.rows == 1) {
      CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream));
    } else {
      CUDA_CHECK(cudaMemcpy2DAsync(to, stride, from, stride, bytes, static_cast<size_t>(range.rows),
                                   cudaMemcpyHostToDevice, stream));
    }
  }
}

void MirroredMemory::CopyToHost(cudaStream_t stream, std::span<const Tensor> parts) {
  for (Tensor part : parts) {
    const Tensor device = OnDevice(part);
    CUDA_CHECK(cudaMemcpyAsync(part.raw(), device.raw(), static_cast<size_t>(part.bytes()),
                               cudaMemcpyDeviceToHost, stream));
  }
}

}  // namespace penstock::cuda
