// BlockManager: who owns which KV block. Deals in ids and reference counts only; the bytes belong
// to the stages. Every block is free, cached or owned, exactly once:
// - owned: it has references;
// - cached: it has none, but was kept for those who may want what it holds; the one that lost its
//   last owner first is the first to be given up;
// - free: neither.
// Thread rule: one thread, the scheduler's.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/base/kv_block.h"

namespace penstock {

class BlockManager {
 public:
  // Blocks 0 .. num_blocks-1, all free. REQUIRES: 0 <= num_blocks <= INT32_MAX.
  explicit BlockManager(int64_t num_blocks);

  // A free block, with one reference now. REQUIRES: num_free() > 0.
  int32_t Allocate();

  // One more owner. REQUIRES: the block is owned or cached.
  void AddReference(int32_t block);

  // One owner less; the last one frees the block, or leaves it cached if it is kept.
  // REQUIRES: the block is owned.
  void Release(int32_t block);

  // From now on it is cached when it has no owner. REQUIRES: the block is owned.
  void Keep(int32_t block);
  // No longer; a cached one is free then. REQUIRES: it is kept.
  void Drop(int32_t block);
  bool is_kept(int32_t block) const { return At(block).kept; }

  // The one to be given up first. REQUIRES: num_cached() > 0.
  int32_t OldestCached() const;

  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_cached() const { return num_cached_; }
  int64_t num_owned() const { return num_blocks() - num_free() - num_cached(); }
  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()) - 1; }
  int32_t references(int32_t block) const { return At(block).references; }

  // CHECKs that every block is free, cached or owned, exactly once. O(num_blocks).
  void CheckIntegrity() const;

 private:
  struct Block {
    int32_t references = 0;
    bool kept = false;
    int32_t previous = -1;  // in the list of the cached, oldest first; -1: in no list
    int32_t next = -1;
  };

  const Block& At(int32_t block) const {
    PENSTOCK_CHECK_GE(block, 0);
    PENSTOCK_CHECK_LT(block, num_blocks());
    return blocks_[static_cast<size_t>(block)];
  }
  Block& At(int32_t block) { return const_cast<Block&>(std::as_const(*this).At(block)); }
  void Link(int32_t block);
  void Unlink(int32_t block);

  // One more at the end: head of the ring of the cached.
  std::vector<Block> blocks_;
  int64_t num_cached_ = 0;
  std::vector<int32_t> free_;  // a stack: the block freed last is the one still in a cache
};

}  // namespace penstock
