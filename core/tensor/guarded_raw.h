// GuardedRaw: a raw allocator's blocks with red zones on both sides, to find who writes beside what
// it was given: a zone holds a pattern, looked at when the block goes back. Owns the allocator
// under it. With PoolOptions::exact the zones begin at a block's first and last byte, and
// compute-sanitizer sees each block by itself. Thread rule: as RawAllocator. A zone that was
// written to is a CHECK.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "core/tensor/pool_allocator.h"

namespace penstock {

class GuardedRaw final : public RawAllocator {
 public:
  static constexpr int64_t kZone = 2 * PoolAllocator::kAlignment;  // bytes, on each side

  // How the host reaches the bytes of a block; both are done once they return.
  struct Access {
    std::function<void(void* data, uint8_t value, int64_t bytes)> fill;
    std::function<void(const void* data, uint8_t* host, int64_t bytes)> read;
  };

  GuardedRaw(std::unique_ptr<RawAllocator> raw, Access access);

  void* Allocate(int64_t bytes) override;
  void Free(void* data) override;
  Device device() const override { return raw_->device(); }
  std::string name() const override { return raw_->name(); }

 private:
  // `zone` begins there; `side`: "before" or "behind".
  void CheckZone(const uint8_t* zone, int64_t block_bytes, const char* side) const;

  const std::unique_ptr<RawAllocator> raw_;
  const Access access_;
  absl::flat_hash_map<void*, int64_t> bytes_;  // of a block, without zones
};

}  // namespace penstock
