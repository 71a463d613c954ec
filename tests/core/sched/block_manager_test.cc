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
  while (blocks.num_free() > 0) {
    const int32_t block = blocks.Allocate();
    EXPECT_TRUE(seen.insert(block).second);
    EXPECT_EQ(blocks.references(block), 1);
    blocks.CheckIntegrity();
  }
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(blocks.num_owned(), 5);
}

TEST(BlockManager, TheLastOwnerFreesABlock) {
  BlockManager blocks(2);
  const int32_t block = blocks.Allocate();
  blocks.AddReference(block);
  blocks.Release(block);
  EXPECT_EQ(blocks.num_free(), 1);
  blocks.CheckIntegrity();
  blocks.Release(block);
  EXPECT_EQ(blocks.num_free(), 2);
  blocks.CheckIntegrity();
}

TEST(BlockManager, AKeptBlockIsCachedUntilItIsDropped) {
  BlockManager blocks(2);
  const int32_t block = blocks.Allocate();
  blocks.Keep(block);
  EXPECT_EQ(blocks.num_cached(), 0);
  blocks.Release(block);
  EXPECT_EQ(blocks.num_cached(), 1);
  EXPECT_EQ(blocks.num_free(), 1);
  EXPECT_EQ(blocks.num_owned(), 0);
  blocks.CheckIntegrity();
  blocks.AddReference(block);
  EXPECT_EQ(blocks.num_cached(), 0);
  EXPECT_EQ(blocks.references(block), 1);
  blocks.CheckIntegrity();
  blocks.Release(block);
  blocks.Drop(block);
  EXPECT_EQ(blocks.num_free(), 2);
  blocks.CheckIntegrity();
}

TEST(BlockManager, ADroppedBlockStaysWithItsOwner) {
  BlockManager blocks(1);
  const int32_t block = blocks.Allocate();
  blocks.Keep(block);
  blocks.Drop(block);
  EXPECT_EQ(blocks.num_owned(), 1);
  blocks.Release(block);
  EXPECT_EQ(blocks.num_free(), 1);
  blocks.CheckIntegrity();
}

TEST(BlockManager, TheOneWithoutAnOwnerForLongestIsGivenUpFirst) {
  BlockManager blocks(4);
  int32_t ids[3];
  for (int32_t& id : ids) {
    id = blocks.Allocate();
    blocks.Keep(id);
  }
  for (int i : {2, 0, 1}) blocks.Release(ids[i]);
  EXPECT_EQ(blocks.OldestCached(), ids[2]);
  blocks.AddReference(ids[2]);  // used again: the youngest, once it is released
  blocks.Release(ids[2]);
  for (int i : {0, 1, 2}) {
    EXPECT_EQ(blocks.OldestCached(), ids[i]);
    blocks.Drop(ids[i]);
    blocks.CheckIntegrity();
  }
  EXPECT_EQ(blocks.num_free(), 4);
}

TEST(BlockManagerDeathTest, MisuseIsCaught) {
  BlockManager blocks(1);
  const int32_t block = blocks.Allocate();
  EXPECT_DEATH(blocks.Allocate(), "num_free");
  EXPECT_DEATH(blocks.Drop(block), "is_kept");
  EXPECT_DEATH(blocks.OldestCached(), "num_cached");
  blocks.Release(block);
  EXPECT_DEATH(blocks.Release(block), "references");
  EXPECT_DEATH(blocks.AddReference(block), "references");
  EXPECT_DEATH(blocks.Keep(block), "references");
  EXPECT_DEATH(blocks.Release(1), "num_blocks");
}

}  // namespace
}  // namespace penstock
