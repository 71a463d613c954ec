// The pooling policy for device memory, over a raw allocator that is injected: the CUDA allocator
// is this over cudaMalloc, the tests run it over a range of made-up addresses. One PoolAllocator is
// one device's pair of pools and owns every block that it got from the raw allocator.
//
// Policy. Sizes are 64-bit and rounded up to kAlignment first; a block is handed out whole, neither
// split nor joined, and Free keeps it for the next request.
//   Big (above big_above): the smallest free block that fits with less than max_waste to spare,
//   else
//     a raw allocation. Refused, the big pool gives its free blocks back and it is tried again;
//     still refused, the small pool does the same.
//   Small: the smallest free block that fits, else a raw allocation. Refused, both pools give their
//     free blocks back and it is tried again. When the pool's free blocks reach small_trim bytes
//     together, all of them are given back.
// So a request is refused only when nothing free is held. Finding, keeping and recognising a block
// costs O(log blocks); only giving back walks over blocks, each of them once.
//
// Thread rule: thread-safe; one mutex, held across the raw calls too. "Nothing fits, the device
// refuses, give back, try again" must be one step: between the last two another thread could take
// what was given back, and a request would fail although enough was free. It also makes in use +
// cached = what the device has given at every look. Waiting costs little: allocations belong to
// loading, and cudaMalloc takes a lock of its own.
//
// The host's view only: a block may be handed out again as soon as it is freed, so work that is
// queued on it must be done, or ahead of the next user's in the same stream.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "core/base/status.h"
#include "core/tensor/allocator.h"

namespace penstock {

// Where the pools get their blocks. Called under the pools' mutex: no call comes while another
// runs.
class RawAllocator {
 public:
  virtual ~RawAllocator() = default;
  // `bytes` is positive and, unless the pools are exact, a multiple of PoolAllocator::kAlignment,
  // as the address must be. Null when the device has no room; any other failure is not for the
  // pools to see.
  virtual void* Allocate(int64_t bytes) = 0;
  virtual void Free(void* data) = 0;
  virtual Device device() const = 0;
  // For messages: "GPU 0".
  virtual std::string name() const = 0;
};

// In bytes.
struct PoolOptions {
  int64_t big_above = int64_t{1} << 20;   // requests above this are big; >= 0
  int64_t max_waste = int64_t{1} << 20;   // a big block is reused with less than this to spare; > 0
  int64_t small_trim = int64_t{1} << 30;  // free small blocks of so much are given back; >= 0
  // To find mistakes (guarded_raw.h): a raw allocation for each request, of exactly its bytes,
  // given back when it is freed; nothing is rounded up, nothing kept.
  bool exact = false;
};

// Of one pool, since it was made. requests = hits + raw_allocations + refused, and blocks =
// raw_allocations - raw_frees.
struct PoolStats {
  int64_t blocks = 0;  // held, in use or free
  int64_t free_blocks = 0;
  int64_t bytes_in_use = 0;     // of whole blocks: with rounding and waste
  int64_t bytes_free = 0;       // cached for reuse
  int64_t requests = 0;         // Allocate
  int64_t hits = 0;             // served by a free block
  int64_t raw_allocations = 0;  // that were given
  int64_t raw_failures = 0;     // that were refused
  int64_t raw_frees = 0;
  int64_t retries = 0;  // raw allocations tried again after giving free blocks back
  int64_t refused = 0;  // requests that ended in RESOURCE_EXHAUSTED

  friend bool operator==(const PoolStats&, const PoolStats&) = default;
};

struct PoolAllocatorStats {
  PoolStats big;
  PoolStats small;
  int64_t bytes_requested = 0;  // in use, as asked for: without rounding and waste
  int64_t peak_in_use = 0;      // the most that big and small had in use together
  int64_t peak_held = 0;        // the most that they had in use and free together

  int64_t bytes_in_use() const { return big.bytes_in_use + small.bytes_in_use; }
  int64_t bytes_free() const { return big.bytes_free + small.bytes_free; }

  friend bool operator==(const PoolAllocatorStats&, const PoolAllocatorStats&) = default;
};

class PoolAllocator final : public BaseAllocator {
 public:
  static constexpr int64_t kAlignment = 256;  // of addresses and block sizes, as cudaMalloc's

  explicit PoolAllocator(std::unique_ptr<RawAllocator> raw, const PoolOptions& options = {});
  // Gives everything back. CHECKs that nothing is in use: whoever still holds a block would write
  // into memory that is gone, and free it into an allocator that is gone.
  ~PoolAllocator() override;

  // REQUIRES: bytes > 0. Errors: RESOURCE_EXHAUSTED with the bytes asked for, in use and cached.
  absl::StatusOr<void*> Allocate(int64_t bytes) override;
  // CHECKs that `data` is a block of this allocator, in use, and given out for `bytes`.
  void Free(void* data, int64_t bytes) override;
  Device device() const override { return raw_->device(); }

  // Gives all free blocks of both pools back to the device. Returns their bytes.
  int64_t ReleaseFree();
  // One moment's figures, all of the same moment.
  PoolAllocatorStats stats() const;

 private:
  struct Block {
    int64_t size;
    int64_t requested;  // 0: free
  };
  struct Pool {
    const int64_t max_waste;  // a free block is taken with less than this to spare
    std::multimap<int64_t, void*> free;
    PoolStats stats;  // but for blocks and free_blocks, which stats() fills in
  };

  // The rest is called with mutex_ held.
  Pool& PoolOf(int64_t size) { return size > options_.big_above ? big_ : small_; }
  void* TakeFreeBlock(Pool& pool, int64_t size);     // null: none fits
  void* MakeBlock(Pool& pool, int64_t size);         // null: none to be had
  void* TryRawAllocation(Pool& pool, int64_t size);  // null: the device refuses
  int64_t Release(Pool& pool);                       // bytes given back
  absl::Status Exhausted(int64_t bytes, int64_t cached) const;

  const std::unique_ptr<RawAllocator> raw_;
  const PoolOptions options_;

  mutable std::mutex mutex_;
  // Guarded by mutex_. A block belongs to the pool that its size says, for as long as it is held.
  Pool big_;
  Pool small_;
  absl::flat_hash_map<void*, Block> blocks_;  // every block held, in use or free
  int64_t bytes_requested_ = 0;
  int64_t peak_in_use_ = 0;
  int64_t peak_held_ = 0;
};

}  // namespace penstock
