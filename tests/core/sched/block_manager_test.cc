#include "core/sched/block_manager.h"

#include <gtest/gtest.h>

#include <set>

namespace penstock {
namespace {

TEST(BlockManager, BlocksForRoundsUp) {
  EXPECT_EQ(BlocksFor(0), 0);
  EXPECT_EQ(BlocksFor(1), 1);
  EXPECT_EQ(BlocksFor(64), 1);
  EXPECT_EQ(BlocksFor(65), 2);
}

TEST(BlockManager, HandsOutEveryBlockOnce) {
  BlockManager blocks(5);
  std::set<int32_t> seen;
  for (int64_t count : {2, 0, 3}) {
    for (int32_t block : blocks.Allocate(count)) {
      EXPECT_TRUE(seen.insert(block).second);
      EXPECT_EQ(blocks.references(block), 1);
    }
    blocks.CheckIntegrity();
  }
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(blocks.num_free(), 0);
}

TEST(BlockManager, TheLastOwnerFreesABlock) {
  BlockManager blocks(2);
  const int32_t block = blocks.Allocate(1)[0];
  blocks.AddReference(block);
  blocks.Release(block);
  EXPECT_EQ(blocks.num_free(), 1);
  blocks.CheckIntegrity();
  blocks.Release(block);
  EXPECT_EQ(blocks.num_free(), 2);
  blocks.CheckIntegrity();
}

TEST(BlockManagerDeathTest, MisuseIsCaught) {
  BlockManager blocks(2);
  EXPECT_DEATH(blocks.Allocate(3), "num_free");
  const int32_t block = blocks.Allocate(1)[0];
  blocks.Release(block);
  EXPECT_DEATH(blocks.Release(block), "references");
  EXPECT_DEATH(blocks.AddReference(block), "references");
  EXPECT_DEATH(blocks.Release(2), "num_blocks");
}

}  // namespace
}  // namespace penstock
