#include "core/sched/kv_pool.h"

#include <algorithm>

#include "core/base/check.h"

namespace penstock {

KvPool::KvPool(const SchedulerOptions& options)
    : use_prefixes_(options.prefix_cache),
      blocks_(options.num_blocks),
      prefixes_(use_prefixes_ ? options.num_blocks : 0, options.cache_key, options.cache_salt) {}

KvPool::Prefix KvPool::FindPrefix(Sequence& sequence) {
  Prefix prefix;
  found_.clear();
  if (!use_prefixes_ || sequence.wants_targets()) return prefix;
  for (int64_t i = 0; (i + 1) * kBlockSize < sequence.size(); ++i) {
    const int32_t block =
        prefixes_.Find(KeyOf(sequence, i), sequence.tenant, TokensOf(sequence, i));
    if (block < 0) break;
    found_.push_back(block);
    prefix.unowned += blocks_.references(block) == 0 ? 1 : 0;
  }
  prefix.blocks = static_cast<int64_t>(found_.size());
  return prefix;
}

void KvPool::TakePrefix(Sequence& sequence) {
  PENSTOCK_CHECK(sequence.blocks.empty());
  FindPrefix(sequence);
  for (int32_t block : found_) blocks_.AddReference(block);
  sequence.blocks = found_;
  sequence.prefix_blocks = sequence.entered = static_cast<int64_t>(found_.size());
}

bool KvPool::Grow(Sequence& sequence) {
  if (blocks_.num_free() == 0) {
    if (blocks_.num_cached() == 0) return false;
    Drop(blocks_.OldestCached());
  }
  sequence.blocks.push_back(blocks_.Allocate());
  return true;
}

void KvPool::Enter(Sequence& sequence) {
  if (!use_prefixes_) return;
  for (; (sequence.entered + 1) * kBlockSize <= sequence.computed; ++sequence.entered) {
    const int64_t i = sequence.entered;
    const int32_t block = sequence.blocks[static_cast<size_t>(i)];
    const bool is_new =
        prefixes_.Insert(KeyOf(sequence, i), sequence.tenant, TokensOf(sequence, i), block);
    if (is_new) blocks_.Keep(block);
  }
}

// The last blocks are of use only to those who find the ones before them: they are given up first.
void KvPool::Leave(Sequence& sequence, bool trusted) {
  for (auto block = sequence.blocks.rbegin(); block != sequence.blocks.rend(); ++block) {
    if (!trusted && blocks_.is_kept(*block)) Drop(*block);
    blocks_.Release(*block);
  }
  sequence.blocks.clear();
  sequence.prefix_blocks = sequence.entered = 0;
}

void KvPool::Clear() {
  PENSTOCK_CHECK_EQ(blocks_.num_owned(), 0);
  while (blocks_.num_cached() > 0) Drop(blocks_.OldestCached());
}

void KvPool::Drop(int32_t block) {
  prefixes_.Erase(block);
  blocks_.Drop(block);
}

PrefixCache::Tokens KvPool::TokensOf(const Sequence& sequence, int64_t block) const {
  PENSTOCK_CHECK_LE((block + 1) * kBlockSize, sequence.size());
  return PrefixCache::Tokens(sequence.tokens.data() + block * kBlockSize, kBlockSize);
}

// Its tokens never change, so a key is made once.
const PrefixKey& KvPool::KeyOf(Sequence& sequence, int64_t block) const {
  std::vector<PrefixKey>& keys = sequence.keys;
  while (static_cast<int64_t>(keys.size()) <= block) {
    const auto next = static_cast<int64_t>(keys.size());
    keys.push_back(prefixes_.KeyOf(sequence.tenant, keys.empty() ? PrefixKey() : keys.back(),
                                   TokensOf(sequence, next)));
  }
  return keys[static_cast<size_t>(block)];
}

void KvPool::CheckIntegrity() const {
  blocks_.CheckIntegrity();
  int64_t kept = 0;
  for (int32_t block = 0; block < blocks_.num_blocks(); ++block) {
    if (!blocks_.is_kept(block)) continue;
    PENSTOCK_CHECK(prefixes_.Holds(block));
    ++kept;
  }
  PENSTOCK_CHECK_EQ(kept, prefixes_.size());
}

}  // namespace penstock
