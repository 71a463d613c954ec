// PrefixCache: which KV block holds which prefix. A block is found by a key over the tenant, what
// else its bytes depend on (a salt), the key of the block before it and its own tokens: so the key
// says all of the prefix. Keys are keyed hashes, and what is found has its tokens compared: no
// tenant can make or guess a prefix of another's. Which blocks live is the owner's affair.
// Thread rule: one thread, the scheduler's.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/base/kv_block.h"
#include "core/base/siphash.h"

namespace penstock {

using PrefixKey = Hash128;

class PrefixCache {
 public:
  using Tokens = std::span<const int32_t, kBlockSize>;

  // `key`: a secret. REQUIRES: num_blocks >= 0.
  PrefixCache(int64_t num_blocks, const uint64_t (&key)[2], uint64_t salt);

  // Of a block behind the one of key `before`; {} in the first one's stead.
  PrefixKey KeyOf(int32_t tenant, const PrefixKey& before, Tokens tokens) const;

  // The block that holds it; -1: none does.
  int32_t Find(const PrefixKey& key, int32_t tenant, Tokens tokens) const;

  // False, and nothing is changed, if another block holds it. REQUIRES: the block has no entry.
  bool Insert(const PrefixKey& key, int32_t tenant, Tokens tokens, int32_t block);

  // REQUIRES: the block has an entry.
  void Erase(int32_t block);
  bool Holds(int32_t block) const { return entries_[block].used; }
  int64_t size() const { return static_cast<int64_t>(by_key_.size()); }

 private:
  struct Entry {
    bool used = false;
    int32_t tenant = 0;
    PrefixKey key;
    std::array<int32_t, kBlockSize> tokens = {};
  };
  struct HashOf {  // a key is a hash already
    size_t operator()(const PrefixKey& key) const { return static_cast<size_t>(key.low); }
  };

  uint64_t key_[2];
  const uint64_t salt_;
  std::vector<Entry> entries_;  // by block
  absl::flat_hash_map<PrefixKey, int32_t, HashOf> by_key_;
};

}  // namespace penstock
