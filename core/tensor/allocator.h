// Where tensors get their bytes. BaseAllocator is the door; HostAllocator is plain aligned memory
// without a pool, as the seed asks; PoolAllocator (pool_allocator.h) keeps pools of device memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/base/status.h"

namespace penstock {

enum class Device : uint8_t { kCpu, kCuda };

class BaseAllocator {
 public:
  virtual ~BaseAllocator() = default;
  BaseAllocator() = default;
  BaseAllocator(const BaseAllocator&) = delete;
  BaseAllocator& operator=(const BaseAllocator&) = delete;

  // `bytes` > 0, aligned for any vector access (64 on the host). Errors: RESOURCE_EXHAUSTED with
  // the amount asked for. Not cleared.
  virtual absl::StatusOr<void*> Allocate(int64_t bytes) = 0;
  // REQUIRES: from this allocator's Allocate, given back once.
  virtual void Free(void* data, int64_t bytes) = 0;
  virtual Device device() const = 0;
};

// Thread-safe.
class HostAllocator final : public BaseAllocator {
 public:
  static constexpr int64_t kAlignment = 64;

  absl::StatusOr<void*> Allocate(int64_t bytes) override;
  void Free(void* data, int64_t bytes) override;
  Device device() const override { return Device::kCpu; }

  // Bytes given out and not yet freed.
  int64_t bytes_in_use() const { return bytes_in_use_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> bytes_in_use_{0};
};

// Bytes that free themselves. The allocator must outlive them.
absl::StatusOr<std::shared_ptr<void>> AllocateShared(BaseAllocator& allocator, int64_t bytes);

}  // namespace penstock
