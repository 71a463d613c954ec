#include "core/sched/prefix_cache.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace penstock {
namespace {

constexpr uint64_t kKey[2] = {1, 2};

std::vector<int32_t> Block(int32_t first) {
  std::vector<int32_t> tokens(kBlockSize);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}
PrefixCache::Tokens Of(const std::vector<int32_t>& tokens) {
  return PrefixCache::Tokens(tokens.data(), kBlockSize);
}

TEST(PrefixCache, FindsWhatWasInserted) {
  PrefixCache cache(4, kKey, 0);
  const std::vector<int32_t> tokens = Block(0);
  const PrefixKey key = cache.KeyOf(0, {}, Of(tokens));
  EXPECT_EQ(cache.Find(key, 0, Of(tokens)), -1);
  EXPECT_TRUE(cache.Insert(key, 0, Of(tokens), 3));
  EXPECT_EQ(cache.Find(key, 0, Of(tokens)), 3);
  EXPECT_FALSE(cache.Insert(key, 0, Of(tokens), 2));  // there is one already
  EXPECT_FALSE(cache.Holds(2));
  cache.Erase(3);
  EXPECT_EQ(cache.Find(key, 0, Of(tokens)), -1);
  EXPECT_EQ(cache.size(), 0);
}

TEST(PrefixCache, AKeySaysAllThatTheBlockDependsOn) {
  const std::vector<int32_t> tokens = Block(0);
  const PrefixCache cache(4, kKey, 0);
  const PrefixKey key = cache.KeyOf(0, {}, Of(tokens));
  EXPECT_TRUE(cache.KeyOf(0, {}, Of(tokens)) == key);
  EXPECT_FALSE(cache.KeyOf(1, {}, Of(tokens)) == key);                      // tenant
  EXPECT_FALSE(cache.KeyOf(0, key, Of(tokens)) == key);                     // what is before
  EXPECT_FALSE(cache.KeyOf(0, {}, Of(Block(1))) == key);                    // tokens
  EXPECT_FALSE(PrefixCache(4, kKey, 5).KeyOf(0, {}, Of(tokens)) == key);    // model
  EXPECT_FALSE(PrefixCache(4, {1, 3}, 0).KeyOf(0, {}, Of(tokens)) == key);  // secret
}

// Two prefixes of one key do not get each other's blocks.
TEST(PrefixCache, ComparesWhatItFinds) {
  PrefixCache cache(4, kKey, 0);
  const std::vector<int32_t> tokens = Block(0);
  const PrefixKey key = cache.KeyOf(0, {}, Of(tokens));
  cache.Insert(key, 0, Of(tokens), 3);
  EXPECT_EQ(cache.Find(key, 0, Of(Block(1))), -1);
  EXPECT_EQ(cache.Find(key, 1, Of(tokens)), -1);
}

}  // namespace
}  // namespace penstock
