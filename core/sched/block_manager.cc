#include "core/sched/block_manager.h"

#include "core/base/check.h"

namespace penstock {

BlockManager::BlockManager(int64_t num_blocks) {
  PENSTOCK_CHECK_GE(num_blocks, 0);
  PENSTOCK_CHECK_LT(num_blocks, INT32_MAX);
  blocks_.resize(num_blocks + 1);
  blocks_.back().previous = blocks_.back().next = static_cast<int32_t>(num_blocks);
  free_.reserve(num_blocks);
  for (int64_t block = num_blocks - 1; block >= 0; --block) {
    free_.push_back(static_cast<int32_t>(block));
  }
}

int32_t BlockManager::Allocate() {
  PENSTOCK_CHECK_GT(num_free(), 0);
  const int32_t block = free_.back();
  free_.pop_back();
  blocks_[block].references = 1;
  return block;
}

void BlockManager::AddReference(int32_t block) {
  PENSTOCK_CHECK(references(block) > 0 || is_kept(block));
  if (references(block) == 0) Unlink(block);
  ++blocks_[block].references;
}

void BlockManager::Release(int32_t block) {
  PENSTOCK_CHECK_GT(references(block), 0);
  if (--blocks_[block].references > 0) return;
  if (blocks_[block].kept) {
    Link(block);
  } else {
    free_.push_back(block);
  }
}

void BlockManager::Keep(int32_t block) {
  PENSTOCK_CHECK_GT(references(block), 0);
  blocks_[block].kept = true;
}

void BlockManager::Drop(int32_t block) {
  PENSTOCK_CHECK(is_kept(block));
  blocks_[block].kept = false;
  if (blocks_[block].references > 0) return;
  Unlink(block);
  free_.push_back(block);
}

int32_t BlockManager::OldestCached() const {
  PENSTOCK_CHECK_GT(num_cached_, 0);
  return blocks_.back().next;
}

// As the youngest of the cached.
void BlockManager::Link(int32_t block) {
  const auto head = static_cast<int32_t>(num_blocks());
  blocks_[block].previous = blocks_[head].previous;
  blocks_[block].next = head;
  blocks_[blocks_[head].previous].next = block;
  blocks_[head].previous = block;
  ++num_cached_;
}

void BlockManager::Unlink(int32_t block) {
  Block& each = blocks_[block];
  blocks_[each.previous].next = each.next;
  blocks_[each.next].previous = each.previous;
  each.previous = each.next = -1;
  --num_cached_;
}

void BlockManager::CheckIntegrity() const {
  std::vector<int32_t> lists(num_blocks(), 0);  // in how many a block is
  for (int32_t block : free_) {
    PENSTOCK_CHECK(references(block) == 0 && !is_kept(block));
    ++lists[block];
  }
  int64_t cached = 0;
  for (int32_t block = blocks_.back().next; block != num_blocks(); block = blocks_[block].next) {
    PENSTOCK_CHECK(references(block) == 0 && is_kept(block));
    ++lists[block];
    ++cached;
  }
  PENSTOCK_CHECK_EQ(cached, num_cached_);
  for (int64_t block = 0; block < num_blocks(); ++block) {
    PENSTOCK_CHECK_EQ(lists[block], references(static_cast<int32_t>(block)) > 0 ? 0 : 1);
  }
}

}  // namespace penstock
