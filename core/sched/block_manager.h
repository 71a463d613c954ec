// BlockManager: who owns which KV block. Deals in ids and reference counts only; the bytes belong
// to the stages. Every block is free (count 0, once in the free list) or owned (count > 0).
// Thread rule: one thread, the scheduler's.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/kv_block.h"

namespace penstock {

class BlockManager {
 public:
  // Blocks 0 .. num_blocks-1, all free. REQUIRES: 0 <= num_blocks <= INT32_MAX.
  explicit BlockManager(int64_t num_blocks);

  // `count` free blocks, each with one reference now. REQUIRES: 0 <= count <= num_free().
  std::vector<int32_t> Allocate(int64_t count);

  // One more owner. REQUIRES: the block is owned.
  void AddReference(int32_t block);

  // One owner less; the last one frees the block. REQUIRES: the block is owned.
  void Release(int32_t block);

  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_blocks() const { return static_cast<int64_t>(references_.size()); }
  int32_t references(int32_t block) const;

  // CHECKs that every block is free or owned, exactly once. O(num_blocks).
  void CheckIntegrity() const;

 private:
  std::vector<int32_t> references_;  // by block
  std::vector<int32_t> free_;        // a stack: the block freed last is the one still in a cache
};

}  // namespace penstock
