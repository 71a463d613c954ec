// Who has room: admission, blocks, preemption.
#include <algorithm>

#include "core/base/check.h"
#include "core/sched/scheduler.h"

namespace penstock {

// Moves the sequence from the queue to a slot; false if there is no room for it.
bool Scheduler::Admit(Sequence& sequence) {
  if (free_slots_.empty() || draft_.is_short) return false;
  const KvPool::Prefix prefix = pool_.FindPrefix(sequence);
  if (!HasRoom(sequence, prefix)) return false;

  waiting_.Remove(sequence);
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[sequence.slot] = &sequence;
  sequence.generation = ++generations_[sequence.slot];
  sequence.admission = ++admissions_;
  pool_.TakePrefix(sequence);
  sequence.computed = sequence.planned = prefix.blocks * kBlockSize;
  if (sequence.pinned()) {
    while (static_cast<int64_t>(sequence.blocks.size()) < sequence.blocks_needed()) {
      PENSTOCK_CHECK(pool_.Grow(sequence));
    }
  }
  if (!sequence.started) {
    lengths_.CameTo(++sequence.part);
    waiting_.Charge(sequence.tenant,
                    WaitQueue::kPromptWeight * (sequence.prompt_tokens - sequence.planned));
    prefix_lookup_tokens_ += sequence.prompt_tokens;
    prefix_hit_tokens_ += sequence.planned;
  }
  sequence.tokens.reserve(static_cast<size_t>(sequence.prompt_tokens + sequence.max_tokens));
  draft_.admitted.push_back(&sequence);
  return true;
}

// Whether the blocks will probably do for all that run and for this one. Alone it always fits.
bool Scheduler::HasRoom(const Sequence& sequence, const KvPool::Prefix& prefix) {
  const int64_t now =
      (sequence.pinned() ? sequence.blocks_needed() : BlocksFor(sequence.size())) - prefix.blocks;
  if (now > pool_.available() - prefix.unowned) return false;
  const auto foresee = [this](const Sequence& each, int64_t prefix_blocks) {
    const int64_t shared_positions = prefix_blocks * kBlockSize;
    if (each.pinned()) {
      const int64_t end = each.positions_needed();
      forecast_.AddWhole(end - shared_positions, end - each.size());
      return;
    }
    const int64_t answer = lengths_.Expect(each.generated(), each.max_tokens);
    const int64_t end = each.prompt_tokens + answer - 1;
    forecast_.Add(each.size() - shared_positions, std::max<int64_t>(end - each.size(), 0));
  };
  // Blocks that several share are counted once, and until all have ended.
  int64_t shared = pool_.blocks().num_owned() + prefix.unowned;
  forecast_.Clear();
  for (const Sequence* each : slots_) {
    if (each == nullptr) continue;
    foresee(*each, each->prefix_blocks);
    shared -= static_cast<int64_t>(each->blocks.size()) - each->prefix_blocks;
  }
  foresee(sequence, prefix.blocks);
  shared = std::max<int64_t>(shared, 0);
  return forecast_.PeakBlocks() + shared <= pool_.blocks().num_blocks();
}

// Blocks for the positions up to `end`, or as many of them as can be had: up to where they reach.
int64_t Scheduler::Reserve(Sequence& sequence, int64_t end) {
  while (static_cast<int64_t>(sequence.blocks.size()) < BlocksFor(end)) {
    if (pool_.Grow(sequence)) continue;
    draft_.is_short = true;
    const int64_t reach = static_cast<int64_t>(sequence.blocks.size()) * kBlockSize;
    if (reach > sequence.planned) return reach;
    Sequence* victim = VictimOf(sequence);
    if (victim == nullptr) return sequence.planned;
    Preempt(*victim);
  }
  return end;
}

// Whom a sequence in need of a block may preempt: the lowest in rank, if that is below its own.
// The oldest ranks above all, so that one always goes on; nullptr: nobody.
Sequence* Scheduler::VictimOf(const Sequence& sequence) const {
  const Sequence* oldest = nullptr;
  for (const Sequence* each : slots_) {
    if (each == nullptr) continue;
    if (oldest == nullptr || each->arrival < oldest->arrival) oldest = each;
  }
  Sequence* victim = nullptr;
  for (Sequence* each : slots_) {
    if (each == nullptr || each == oldest || each == &sequence) continue;
    if (each->pinned()) continue;
    if (victim == nullptr || each->RanksBelow(*victim)) victim = each;
  }
  if (victim == nullptr) return nullptr;
  return &sequence == oldest || victim->RanksBelow(sequence) ? victim : nullptr;
}

void Scheduler::Preempt(Sequence& sequence) {
  ++preemptions_;
  ++sequence.preemptions;
  preempted_.push_back(sequence.id);
  lengths_.WasPreempted();
  LeaveSlot(sequence, true);
  waiting_.Push(sequence);
}

// Gives back what the sequence holds; it begins anew, with the tokens that were committed.
// `trusted`: what is cached of it stays so.
void Scheduler::LeaveSlot(Sequence& sequence, bool trusted) {
  pool_.Leave(sequence, trusted);
  slots_[sequence.slot] = nullptr;
  free_slots_.push_back(sequence.slot);
  sequence.slot = -1;
  sequence.computed = 0;
  sequence.planned = 0;
  sequence.ahead = 0;
}

}  // namespace penstock
