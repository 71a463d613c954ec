#include "core/tensor/pool_allocator.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/base/check.h"
#include "core/base/checked_size.h"

namespace penstock {

PoolAllocator::PoolAllocator(std::unique_ptr<RawAllocator> raw, const PoolOptions& options)
    : raw_(std::move(raw)),
      options_(options),
      big_{options.max_waste, {}, {}},
      small_{std::numeric_limits<int64_t>::max(), {}, {}} {
  PENSTOCK_CHECK_GE(options.big_above, 0);
  PENSTOCK_CHECK_GT(options.max_waste, 0);
  PENSTOCK_CHECK_GE(options.small_trim, 0);
}

PoolAllocator::~PoolAllocator() {
  ReleaseFree();
  if (!blocks_.empty()) {
    CheckFailed(__FILE__, __LINE__,
                absl::StrCat(raw_->name(), ": the allocator ends while ", blocks_.size(),
                             " blocks (", bytes_requested_, " bytes) are in use"));
  }
}

absl::StatusOr<void*> PoolAllocator::Allocate(int64_t bytes) {
  PENSTOCK_CHECK_GT(bytes, 0);
  const auto size = CheckedSize(bytes).RoundUp(options_.exact ? 1 : kAlignment).value();
  const std::lock_guard<std::mutex> lock(mutex_);
  Pool& pool = size ? PoolOf(*size) : big_;
  ++pool.stats.requests;
  const int64_t cached = big_.stats.bytes_free + small_.stats.bytes_free;
  void* data = nullptr;
  if (size) {
    data = TakeFreeBlock(pool, *size);
    if (data == nullptr) data = MakeBlock(pool, *size);
  }
  if (data == nullptr) {
    ++pool.stats.refused;
    return Exhausted(bytes, cached);
  }
  Block& block = blocks_.find(data)->second;
  block.requested = bytes;
  bytes_requested_ += bytes;
  pool.stats.bytes_in_use += block.size;
  const int64_t in_use = big_.stats.bytes_in_use + small_.stats.bytes_in_use;
  peak_in_use_ = std::max(peak_in_use_, in_use);
  peak_held_ = std::max(peak_held_, in_use + big_.stats.bytes_free + small_.stats.bytes_free);
  return data;
}

void PoolAllocator::Free(void* data, int64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = blocks_.find(data);
  const auto fail = [&](const std::string& why) {
    std::ostringstream text;
    text << raw_->name() << ": Free(" << data << ", " << bytes << "): " << why;
    CheckFailed(__FILE__, __LINE__, text.str());
  };
  if (found == blocks_.end()) fail("no block of this allocator begins there (any more)");
  Block& block = found->second;
  if (block.requested == 0)
    fail(absl::StrCat("the block of ", block.size, " bytes is free already"));
  if (block.requested != bytes) fail(absl::StrCat("it was given out for ", block.requested));

  Pool& pool = PoolOf(block.size);
  block.requested = 0;
  bytes_requested_ -= bytes;
  pool.stats.bytes_in_use -= block.size;
  pool.stats.bytes_free += block.size;
  pool.free.emplace(block.size, data);
  const bool is_full = &pool == &small_ && pool.stats.bytes_free >= options_.small_trim;
  if (is_full || options_.exact) Release(pool);
}

int64_t PoolAllocator::ReleaseFree() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return Release(big_) + Release(small_);
}

PoolAllocatorStats PoolAllocator::stats() const {
  const auto of_pool = [](const Pool& pool) {
    PoolStats stats = pool.stats;
    stats.blocks = stats.raw_allocations - stats.raw_frees;
    stats.free_blocks = static_cast<int64_t>(pool.free.size());
    return stats;
  };
  const std::lock_guard<std::mutex> lock(mutex_);
  return {.big = of_pool(big_),
          .small = of_pool(small_),
          .bytes_requested = bytes_requested_,
          .peak_in_use = peak_in_use_,
          .peak_held = peak_held_};
}

void* PoolAllocator::TakeFreeBlock(Pool& pool, int64_t size) {
  const auto best = pool.free.lower_bound(size);
  if (best == pool.free.end() || best->first - size >= pool.max_waste) return nullptr;
  void* data = best->second;
  ++pool.stats.hits;
  pool.stats.bytes_free -= best->first;
  pool.free.erase(best);
  return data;
}

void* PoolAllocator::MakeBlock(Pool& pool, int64_t size) {
  if (void* data = TryRawAllocation(pool, size)) return data;
  // The big pool first: what it lets go is worth most to a big request. A small one can find room
  // in either, and both go at once: it is not worth a second refusal.
  int64_t released = Release(big_);
  if (&pool == &small_) released += Release(small_);
  if (released > 0) {
    ++pool.stats.retries;
    if (void* data = TryRawAllocation(pool, size)) return data;
  }
  if (Release(small_) == 0) return nullptr;
  ++pool.stats.retries;
  return TryRawAllocation(pool, size);
}

void* PoolAllocator::TryRawAllocation(Pool& pool, int64_t size) {
  void* data = raw_->Allocate(size);
  if (data == nullptr) {
    ++pool.stats.raw_failures;
    return nullptr;
  }
  PENSTOCK_CHECK_EQ(reinterpret_cast<uintptr_t>(data) % kAlignment, 0u);
  const bool is_new = blocks_.emplace(data, Block{size, 0}).second;
  PENSTOCK_CHECK(is_new);
  ++pool.stats.raw_allocations;
  return data;
}

int64_t PoolAllocator::Release(Pool& pool) {
  for (const auto& [size, data] : pool.free) {
    blocks_.erase(data);
    raw_->Free(data);
    ++pool.stats.raw_frees;
  }
  pool.free.clear();
  return std::exchange(pool.stats.bytes_free, 0);
}

absl::Status PoolAllocator::Exhausted(int64_t bytes, int64_t cached) const {
  return absl::ResourceExhaustedError(
      absl::StrCat("out of memory on ", raw_->name(), ": ", bytes, " bytes were asked for while ",
                   big_.stats.bytes_in_use + small_.stats.bytes_in_use, " are in use and ", cached,
                   " were cached (", cached - big_.stats.bytes_free - small_.stats.bytes_free,
                   " of them given back for this); lower --kv-memory-mib or --max-step-tokens, or "
                   "free memory on ",
                   "the device"));
}

}  // namespace penstock
