#include "core/sched/block_manager.h"

#include "core/base/check.h"

namespace penstock {

BlockManager::BlockManager(int64_t num_blocks) {
  PENSTOCK_CHECK_GE(num_blocks, 0);
  PENSTOCK_CHECK_LE(num_blocks, INT32_MAX);
  references_.resize(num_blocks, 0);
  free_.reserve(num_blocks);
  for (int64_t block = num_blocks - 1; block >= 0; --block) {
    free_.push_back(static_cast<int32_t>(block));
  }
}

std::vector<int32_t> BlockManager::Allocate(int64_t count) {
  PENSTOCK_CHECK_GE(count, 0);
  PENSTOCK_CHECK_LE(count, num_free());
  std::vector<int32_t> blocks(free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - count);
  for (int32_t block : blocks) references_[block] = 1;
  return blocks;
}

void BlockManager::AddReference(int32_t block) {
  PENSTOCK_CHECK_GT(references(block), 0);
  ++references_[block];
}

void BlockManager::Release(int32_t block) {
  PENSTOCK_CHECK_GT(references(block), 0);
  if (--references_[block] == 0) free_.push_back(block);
}

int32_t BlockManager::references(int32_t block) const {
  PENSTOCK_CHECK_GE(block, 0);
  PENSTOCK_CHECK_LT(block, num_blocks());
  return references_[block];
}

void BlockManager::CheckIntegrity() const {
  std::vector<bool> is_free(references_.size(), false);
  for (int32_t block : free_) {
    PENSTOCK_CHECK_EQ(references(block), 0);
    PENSTOCK_CHECK(!is_free[block]);
    is_free[block] = true;
  }
  for (int64_t block = 0; block < num_blocks(); ++block) {
    PENSTOCK_CHECK_EQ(references_[block] == 0, is_free[block]);
  }
}

}  // namespace penstock
