// KvPool: the KV blocks of all sequences. It hands out free blocks, else the cached ones that were
// used longest ago, and lets sequences begin with what others have computed. A block is entered
// into the prefix cache once committed plans have written all of it, and stays for as long as
// nobody needs its room.
// Thread rule: one thread, the scheduler's.
#pragma once

#include <cstdint>
#include <vector>

#include "core/sched/block_manager.h"
#include "core/sched/prefix_cache.h"
#include "core/sched/scheduler_types.h"

namespace penstock {

class KvPool {
 public:
  explicit KvPool(const SchedulerOptions& options);

  // The cached blocks that the sequence could begin with. At least one token is always left to be
  // fed, and all whose log-probabilities are wanted.
  struct Prefix {
    int64_t blocks = 0;
    int64_t unowned = 0;  // of these
  };
  Prefix FindPrefix(Sequence& sequence);
  // Gives it those. REQUIRES: it has no block.
  void TakePrefix(Sequence& sequence);

  // One block more; false: all are owned.
  bool Grow(Sequence& sequence);

  // Enters what is computed by now. REQUIRES: the tokens of all computed positions are known.
  void Enter(Sequence& sequence);

  // Takes the sequence's blocks back; `trusted`: what is cached of them stays so.
  void Leave(Sequence& sequence, bool trusted);

  // The stages have forgotten all. REQUIRES: no block is owned.
  void Clear();

  int64_t available() const { return blocks_.num_free() + blocks_.num_cached(); }
  const BlockManager& blocks() const { return blocks_; }
  void CheckIntegrity() const;

 private:
  PrefixCache::Tokens TokensOf(const Sequence& sequence, int64_t block) const;
  const PrefixKey& KeyOf(Sequence& sequence, int64_t block) const;
  void Drop(int32_t block);

  const bool use_prefixes_;
  BlockManager blocks_;
  PrefixCache prefixes_;
  std::vector<int32_t> found_;  // by the last FindPrefix
};

}  // namespace penstock
