#include "core/sched/prefix_cache.h"

#include <algorithm>

#include "core/base/check.h"

namespace penstock {

PrefixCache::PrefixCache(int64_t num_blocks, const uint64_t (&key)[2], uint64_t salt)
    : key_{key[0], key[1]}, salt_(salt), entries_(static_cast<size_t>(num_blocks)) {}

PrefixKey PrefixCache::KeyOf(int32_t tenant, const PrefixKey& before, Tokens tokens) const {
  struct {
    uint64_t salt;
    uint64_t tenant;
    PrefixKey before;
    std::array<int32_t, kBlockSize> tokens;
  } text = {salt_, static_cast<uint64_t>(tenant), before, {}};
  static_assert(sizeof(text) == 32 + kBlockSize * sizeof(int32_t), "no padding in what is hashed");
  std::copy(tokens.begin(), tokens.end(), text.tokens.begin());
  return SipHash128(key_, &text, sizeof(text));
}

int32_t PrefixCache::Find(const PrefixKey& key, int32_t tenant, Tokens tokens) const {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return -1;
  const Entry& entry = entries_[found->second];
  const bool is_same =
      entry.tenant == tenant && std::equal(tokens.begin(), tokens.end(), entry.tokens.begin());
  return is_same ? found->second : -1;
}

bool PrefixCache::Insert(const PrefixKey& key, int32_t tenant, Tokens tokens, int32_t block) {
  Entry& entry = entries_[block];
  PENSTOCK_CHECK(!entry.used);
  if (!by_key_.emplace(key, block).second) return false;
  entry.used = true;
  entry.tenant = tenant;
  entry.key = key;
  std::copy(tokens.begin(), tokens.end(), entry.tokens.begin());
  return true;
}

void PrefixCache::Erase(int32_t block) {
  PENSTOCK_CHECK(Holds(block));
  by_key_.erase(entries_[block].key);
  entries_[block].used = false;
}

}  // namespace penstock
