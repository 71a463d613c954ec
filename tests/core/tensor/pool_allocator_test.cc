// Every rule of the pooling policy, one test each, over a device of made-up addresses.
#include "core/tensor/pool_allocator.h"

#include "gtest/gtest.h"
#include "tests/support/fake_raw_allocator.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

constexpr int64_t kKiB = int64_t{1} << 10;
constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kGiB = int64_t{1} << 30;

void* Get(BaseAllocator& pools, int64_t bytes) {
  const auto data = pools.Allocate(bytes);
  EXPECT_TRUE(IsOk(data));
  return data.ok() ? *data : nullptr;
}

// Allocates all, then frees all: the pools then have these blocks free.
void Cache(BaseAllocator& pools, std::initializer_list<int64_t> sizes) {
  std::vector<std::pair<void*, int64_t>> blocks;
  for (const int64_t bytes : sizes) blocks.emplace_back(Get(pools, bytes), bytes);
  for (const auto& [data, bytes] : blocks) pools.Free(data, bytes);
}

TEST(PoolAllocator, DefaultsAreOneMiBOneMiBAndOneGiB) {
  EXPECT_EQ(PoolOptions().big_above, kMiB);
  EXPECT_EQ(PoolOptions().max_waste, kMiB);
  EXPECT_EQ(PoolOptions().small_trim, kGiB);
}

TEST(PoolAllocator, FreeKeepsTheBlockForTheNextRequest) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  EXPECT_EQ(pools.device(), Device::kCuda);
  for (const int64_t bytes : {1000 * kMiB, int64_t{1000}}) {
    void* data = Get(pools, bytes);
    device.TakeLog();
    for (int i = 0; i < 3; ++i) {
      pools.Free(data, bytes);
      EXPECT_EQ(Get(pools, bytes), data);
    }
    EXPECT_TRUE(device.TakeLog().empty());
    pools.Free(data, bytes);
  }
}

TEST(PoolAllocator, SizesAreRoundedUpTo256Bytes) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  for (const auto& [bytes, block] : {std::pair<int64_t, int64_t>{1, 256}, {256, 256}, {257, 512}}) {
    void* data = Get(pools, bytes);
    EXPECT_EQ(pools.stats().bytes_requested, bytes);
    EXPECT_EQ(pools.stats().small.bytes_in_use, block);
    EXPECT_EQ(device.bytes(), block);
    pools.Free(data, bytes);
    EXPECT_EQ(pools.stats().bytes_requested, 0);
    EXPECT_EQ(pools.ReleaseFree(), block);
  }
}

TEST(PoolAllocator, OneMiBIsSmallAndOneByteMoreIsBig) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  void* small = Get(pools, kMiB);
  EXPECT_EQ(pools.stats().small.blocks, 1);
  EXPECT_EQ(pools.stats().big.blocks, 0);
  void* big = Get(pools, kMiB + 1);
  EXPECT_EQ(pools.stats().small.blocks, 1);
  EXPECT_EQ(pools.stats().big.blocks, 1);
  pools.Free(small, kMiB);
  pools.Free(big, kMiB + 1);
  EXPECT_EQ(pools.stats().small.bytes_free, kMiB);
  EXPECT_EQ(pools.stats().big.bytes_free, kMiB + 256);
}

TEST(PoolAllocator, ThePoolsDoNotServeEachOther) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  Cache(pools, {kMiB, kMiB + 1});
  void* small = Get(pools, kMiB - 256);
  void* other = Get(pools, kMiB - 256);
  EXPECT_EQ(pools.stats().small.hits, 1);
  EXPECT_EQ(pools.stats().big.hits, 0);
  EXPECT_EQ(pools.stats().big.bytes_free, kMiB + 256);
  pools.Free(small, kMiB - 256);
  pools.Free(other, kMiB - 256);
}

TEST(PoolAllocator, BigIsReusedWithWasteBelowOneMiB) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  const int64_t block = 8 * kMiB;
  Cache(pools, {block});
  // One byte below 1 MiB of waste.
  void* data = Get(pools, block - kMiB + 1);
  EXPECT_EQ(pools.stats().big.hits, 1);
  EXPECT_EQ(pools.stats().big.bytes_in_use, block);
  pools.Free(data, block - kMiB + 1);
  EXPECT_EQ(pools.stats().big.bytes_free, block);
}

TEST(PoolAllocator, BigIsNotReusedWithWasteOfOneMiB) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  const int64_t block = 8 * kMiB;
  Cache(pools, {block});
  void* data = Get(pools, block - kMiB);
  EXPECT_EQ(pools.stats().big.hits, 0);
  EXPECT_EQ(pools.stats().big.blocks, 2);
  pools.Free(data, block - kMiB);
}

TEST(PoolAllocator, BigIsNotReusedForOneByteMoreThanItHas) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  Cache(pools, {8 * kMiB});
  pools.Free(Get(pools, 8 * kMiB + 1), 8 * kMiB + 1);
  EXPECT_EQ(pools.stats().big.hits, 0);
}

TEST(PoolAllocator, BestFitInBothPools) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  Cache(pools, {9 * kMiB, 9 * kMiB - 512 * kKiB, 9 * kMiB + 256 * kKiB, 8 * kMiB});
  Cache(pools, {512 * kKiB, 300 * kKiB, 2 * kKiB, kKiB, kMiB});
  void* big = Get(pools, 8 * kMiB + 256 * kKiB);
  EXPECT_EQ(pools.stats().big.bytes_in_use, 9 * kMiB - 512 * kKiB);
  void* small = Get(pools, 3 * kKiB);  // a small request may waste what it likes
  EXPECT_EQ(pools.stats().small.bytes_in_use, 300 * kKiB);
  pools.Free(big, 8 * kMiB + 256 * kKiB);
  pools.Free(small, 3 * kKiB);
}

TEST(PoolAllocator, ABigRequestThatIsRefusedReleasesFreeBigBlocksAndTriesAgain) {
  FakeDevice device(100 * kMiB);
  PoolAllocator pools(device.MakeRaw());
  void* kept = Get(pools, 20 * kMiB);
  Cache(pools, {30 * kMiB, 40 * kMiB, kMiB});
  void* data = Get(pools, 79 * kMiB);
  const PoolAllocatorStats stats = pools.stats();
  EXPECT_EQ(stats.big.raw_failures, 1);
  EXPECT_EQ(stats.big.retries, 1);
  EXPECT_EQ(stats.big.raw_frees, 2);
  EXPECT_EQ(stats.big.bytes_in_use, 99 * kMiB);  // what is in use is left alone
  EXPECT_EQ(stats.small.free_blocks, 1);         // and so is the small pool
  EXPECT_EQ(device.bytes(), 100 * kMiB);
  pools.Free(data, 79 * kMiB);
  pools.Free(kept, 20 * kMiB);
}

TEST(PoolAllocator, ABigRequestThatIsRefusedAgainReleasesTheSmallPoolToo) {
  FakeDevice device(100 * kMiB);
  PoolAllocator pools(device.MakeRaw());
  Cache(pools, {40 * kMiB, kMiB});
  void* data = Get(pools, 100 * kMiB);
  EXPECT_EQ(pools.stats().big.retries, 2);
  EXPECT_EQ(pools.stats().big.raw_failures, 2);
  EXPECT_EQ(pools.stats().small.blocks, 0);
  EXPECT_EQ(pools.stats().bytes_free(), 0);
  pools.Free(data, 100 * kMiB);
}

TEST(PoolAllocator, ASmallRequestThatIsRefusedReleasesBothPoolsAndTriesAgain) {
  FakeDevice device(10 * kMiB);
  PoolAllocator pools(device.MakeRaw());
  Cache(pools, {9 * kMiB, 512 * kKiB, 512 * kKiB});
  void* data = Get(pools, 600 * kKiB);
  const PoolAllocatorStats stats = pools.stats();
  EXPECT_EQ(stats.small.raw_failures, 1);
  EXPECT_EQ(stats.small.retries, 1);
  EXPECT_EQ(stats.small.raw_frees, 2);
  EXPECT_EQ(stats.big.raw_frees, 1);
  EXPECT_EQ(device.bytes(), 600 * kKiB);
  pools.Free(data, 600 * kKiB);
}

TEST(PoolAllocator, NoRetryWhenNothingWasReleased) {
  FakeDevice device(10 * kMiB);
  PoolAllocator pools(device.MakeRaw());
  void* data = Get(pools, 10 * kMiB);
  EXPECT_FALSE(pools.Allocate(kMiB).ok());
  EXPECT_FALSE(pools.Allocate(2 * kMiB).ok());
  EXPECT_EQ(pools.stats().small.raw_failures, 1);
  EXPECT_EQ(pools.stats().big.raw_failures, 1);
  EXPECT_EQ(pools.stats().small.retries + pools.stats().big.retries, 0);
  pools.Free(data, 10 * kMiB);
}

TEST(PoolAllocator, ARefusalSaysWhatWasAskedInUseAndCached) {
  FakeDevice device(10 * kMiB);
  PoolAllocator pools(device.MakeRaw());
  void* data = Get(pools, 4 * kMiB);
  Cache(pools, {3 * kMiB});
  EXPECT_TRUE(Fails(pools.Allocate(5'000'000'000), absl::StatusCode::kResourceExhausted,
                    {"fake GPU", "5000000000 bytes were asked for", "4194304 are in use",
                     "3145728 were cached (3145728 of them given back", "lower --kv-memory-mib"}));
  EXPECT_EQ(pools.stats().big.refused, 1);
  // And the pools work on.
  pools.Free(data, 4 * kMiB);
  EXPECT_EQ(Get(pools, 4 * kMiB), data);
  pools.Free(data, 4 * kMiB);
}

TEST(PoolAllocator, ASizeThatCannotBeRoundedIsRefused) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  Cache(pools, {kKiB});
  device.TakeLog();
  EXPECT_TRUE(Fails(pools.Allocate(INT64_MAX), absl::StatusCode::kResourceExhausted,
                    {"9223372036854775807", "1024 were cached (0 of them given back"}));
  EXPECT_TRUE(device.TakeLog().empty());
}

TEST(PoolAllocator, FreeSmallBlocksAreReleasedWhenTheyReachTheLimit) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  std::vector<void*> blocks;
  for (int i = 0; i < 1024; ++i) blocks.push_back(Get(pools, kMiB));
  void* kept = Get(pools, 512);
  Cache(pools, {2 * kMiB});
  // 1024 blocks of 1 MiB are 1 GiB: the last one reaches it.
  for (int i = 0; i < 1023; ++i) pools.Free(blocks[static_cast<size_t>(i)], kMiB);
  EXPECT_EQ(pools.stats().small.bytes_free, kGiB - kMiB);
  EXPECT_EQ(pools.stats().small.raw_frees, 0);
  pools.Free(blocks.back(), kMiB);
  EXPECT_EQ(pools.stats().small.free_blocks, 0);
  EXPECT_EQ(pools.stats().small.bytes_free, 0);
  EXPECT_EQ(pools.stats().small.raw_frees, 1024);
  EXPECT_EQ(pools.stats().small.bytes_in_use, 512);
  EXPECT_EQ(pools.stats().big.free_blocks, 1);
  EXPECT_EQ(device.num_blocks(), 2);
  pools.Free(kept, 512);
}

TEST(PoolAllocator, FreeSmallBlocksAreKeptBelowTheLimit) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw(), {.small_trim = 64 * kKiB});
  void* first = Get(pools, 32 * kKiB);
  void* second = Get(pools, 32 * kKiB - 256);
  pools.Free(first, 32 * kKiB);
  pools.Free(second, 32 * kKiB - 256);  // 256 bytes below it
  EXPECT_EQ(pools.stats().small.free_blocks, 2);
  EXPECT_EQ(pools.stats().small.raw_frees, 0);
  Cache(pools, {2 * kMiB});  // big blocks do not count
  EXPECT_EQ(pools.stats().small.raw_frees, 0);
}

TEST(PoolAllocator, WithoutALimitForSmallBlocksNoneIsKept) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw(), {.small_trim = 0});
  Cache(pools, {kKiB, kMiB, 4 * kMiB});
  EXPECT_EQ(device.bytes(), 4 * kMiB);
}

TEST(PoolAllocator, TheLimitsAreSettings) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw(), {.big_above = 4 * kKiB, .max_waste = 512});
  Cache(pools, {4 * kKiB, 4 * kKiB + 1, 16 * kKiB});
  EXPECT_EQ(pools.stats().small.free_blocks, 1);
  EXPECT_EQ(pools.stats().big.free_blocks, 2);
  Cache(pools, {16 * kKiB - 256});
  EXPECT_EQ(pools.stats().big.hits, 1);
  Cache(pools, {16 * kKiB - 512});
  EXPECT_EQ(pools.stats().big.hits, 1);
}

// Sizes in an int would break at 2 GiB, and at 4 GiB without a sign of it.
TEST(PoolAllocator, SizesAbove4GiBAreWhole) {
  FakeDevice device(1024 * kGiB);
  PoolAllocator pools(device.MakeRaw());
  for (const int64_t bytes : {2 * kGiB, 4 * kGiB, 4 * kGiB + 256, 70 * kGiB, 700 * kGiB}) {
    void* data = Get(pools, bytes);
    EXPECT_EQ(device.bytes(), bytes);
    EXPECT_EQ(pools.stats().big.bytes_in_use, bytes);
    pools.Free(data, bytes);
    EXPECT_EQ(pools.stats().big.bytes_free, bytes);
    EXPECT_EQ(Get(pools, bytes - 1), data);
    pools.Free(data, bytes - 1);
    EXPECT_EQ(pools.ReleaseFree(), bytes);
  }
  // Equal modulo 2^32, but no fit.
  Cache(pools, {2 * kMiB});
  void* data = Get(pools, 4 * kGiB + 2 * kMiB);
  EXPECT_EQ(pools.stats().big.bytes_in_use, 4 * kGiB + 2 * kMiB);
  pools.Free(data, 4 * kGiB + 2 * kMiB);
}

TEST(PoolAllocator, ReleaseFreeGivesBackAllThatIsFreeAndNothingElse) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  void* kept = Get(pools, 5 * kMiB);
  Cache(pools, {3 * kMiB, 4 * kMiB, kKiB, 2 * kKiB});
  EXPECT_EQ(pools.ReleaseFree(), 7 * kMiB + 3 * kKiB);
  EXPECT_EQ(pools.ReleaseFree(), 0);
  EXPECT_EQ(device.bytes(), 5 * kMiB);
  pools.Free(kept, 5 * kMiB);
}

TEST(PoolAllocator, TheEndGivesEverythingBack) {
  FakeDevice device;
  {
    PoolAllocator pools(device.MakeRaw());
    Cache(pools, {3 * kMiB, kKiB});
    EXPECT_EQ(device.num_blocks(), 2);
  }
  EXPECT_EQ(device.num_blocks(), 0);
}

TEST(PoolAllocator, PeaksStayWhenTheBytesGo) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  Cache(pools, {3 * kMiB, kKiB});
  Cache(pools, {2 * kMiB - 256});  // the 3 MiB block stays cached
  pools.ReleaseFree();
  EXPECT_EQ(pools.stats().peak_in_use, 3 * kMiB + kKiB);
  EXPECT_EQ(pools.stats().peak_held, 5 * kMiB + kKiB - 256);
  EXPECT_EQ(pools.stats().bytes_in_use(), 0);
}

TEST(PoolAllocator, TensorsOfItFreeThemselves) {
  FakeDevice device;
  PoolAllocator pools(device.MakeRaw());
  {
    const auto bytes = AllocateShared(pools, 3 * kMiB);
    ASSERT_TRUE(IsOk(bytes));
    EXPECT_EQ(pools.stats().bytes_in_use(), 3 * kMiB);
  }
  EXPECT_EQ(pools.stats().bytes_free(), 3 * kMiB);
}

class PoolAllocatorDeathTest : public testing::Test {
 protected:
  FakeDevice device_;
  PoolAllocator pools_{device_.MakeRaw()};
};

TEST_F(PoolAllocatorDeathTest, DoubleFree) {
  void* data = Get(pools_, 1000);
  pools_.Free(data, 1000);
  EXPECT_DEATH(pools_.Free(data, 1000),
               "fake GPU: Free\\(0x100000, 1000\\): the block of 1024 bytes is free already");
  pools_.ReleaseFree();
  EXPECT_DEATH(pools_.Free(data, 1000), "no block of this allocator begins there");
}

TEST_F(PoolAllocatorDeathTest, ForeignPointer) {
  char foreign = 0;
  EXPECT_DEATH(pools_.Free(&foreign, 1), "no block of this allocator begins there");
  EXPECT_DEATH(pools_.Free(nullptr, 1), "no block of this allocator begins there");
  auto* data = static_cast<char*>(Get(pools_, 1000));
  EXPECT_DEATH(pools_.Free(data + 256, 744), "no block of this allocator begins there");
  pools_.Free(data, 1000);
}

TEST_F(PoolAllocatorDeathTest, WrongSize) {
  void* data = Get(pools_, 1000);
  EXPECT_DEATH(pools_.Free(data, 1024), "Free\\(0x100000, 1024\\): it was given out for 1000");
  EXPECT_DEATH(pools_.Free(data, 0), "it was given out for 1000");
  pools_.Free(data, 1000);
  // Reuse counts by the request of the day, not by the block's first.
  EXPECT_EQ(Get(pools_, 900), data);
  EXPECT_DEATH(pools_.Free(data, 1000), "it was given out for 900");
  pools_.Free(data, 900);
}

TEST_F(PoolAllocatorDeathTest, NothingAsked) {
  EXPECT_DEATH(static_cast<void>(pools_.Allocate(0)), "bytes > 0");
  EXPECT_DEATH(static_cast<void>(pools_.Allocate(-1)), "bytes > 0");
}

TEST_F(PoolAllocatorDeathTest, TheEndWhileInUse) {
  EXPECT_DEATH(
      {
        PoolAllocator pools(device_.MakeRaw());
        Get(pools, 1000);
        Get(pools, 3 * kMiB);
      },
      "ends while 2 blocks \\(3146728 bytes\\) are in use");
}

TEST_F(PoolAllocatorDeathTest, ARawAllocatorThatGivesWhatItMustNot) {
  void* data = Get(pools_, 1000);
  device_.ForceAddress(reinterpret_cast<uint64_t>(data));
  EXPECT_DEATH(static_cast<void>(pools_.Allocate(2000)), "is_new");
  device_.ForceAddress(0x12345680);
  EXPECT_DEATH(static_cast<void>(pools_.Allocate(2000)), "kAlignment");
  pools_.Free(data, 1000);
}

TEST_F(PoolAllocatorDeathTest, SettingsOutsideTheirRange) {
  EXPECT_DEATH(PoolAllocator(device_.MakeRaw(), {.big_above = -1}), "big_above");
  EXPECT_DEATH(PoolAllocator(device_.MakeRaw(), {.max_waste = 0}), "max_waste");
  EXPECT_DEATH(PoolAllocator(device_.MakeRaw(), {.small_trim = -1}), "small_trim");
}

}  // namespace
}  // namespace penstock
