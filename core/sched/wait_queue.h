// WaitQueue: the sequences that wait, in the order in which they are let in: by priority; within it
// the tenant that was served least; of a tenant the preempted ones before the new ones, the oldest
// first. Borrows the sequences.
//
// Served tokens are counted by tenant; one that had nothing waiting is lifted to the least counter
// of those that have, so that nobody saves up for a rush (VTC: Sheng et al., "Fairness in Serving
// Large Language Models", OSDI 2024).
// Thread rule: one thread, the scheduler's.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "core/sched/sequence.h"

namespace penstock {

class WaitQueue {
 public:
  // What a token counts: of a prompt, of an answer.
  static constexpr int64_t kPromptWeight = 1;
  static constexpr int64_t kAnswerWeight = 2;

  // REQUIRES: it does not wait yet; its priority, tenant and `started` stay while it waits.
  void Push(Sequence& sequence);
  // REQUIRES: it waits.
  void Remove(Sequence& sequence);
  // The one to be let in next; nullptr: none waits.
  Sequence* Head() const;

  // The tenant was served so much.
  void Charge(int32_t tenant, int64_t weighted_tokens);

  int64_t size() const { return size_; }
  int64_t tokens() const { return tokens_; }                // prompt + max_tokens over all
  int64_t prompt_tokens() const { return prompt_tokens_; }  // to be fed, were all let in
  // All that is known of the order and the sums, held against the sequences themselves.
  void CheckIntegrity() const;

 private:
  using Lane = std::set<std::tuple<bool, int64_t, Sequence*>>;  // is new, arrival
  using LaneKey = std::pair<int64_t, int32_t>;                  // -priority, tenant
  struct Tenant {
    int64_t served = 0;
    int64_t waiting = 0;
  };

  static LaneKey LaneOf(const Sequence& sequence);
  static Lane::value_type PlaceOf(const Sequence& sequence);
  int64_t LeastServed() const;
  void Forget(int64_t least);

  std::map<LaneKey, Lane> lanes_;  // none empty
  absl::flat_hash_map<int32_t, Tenant> tenants_;
  int32_t last_tenant_ = 0;  // that had the last waiting one
  int64_t size_ = 0;
  int64_t tokens_ = 0;
  int64_t prompt_tokens_ = 0;
};

}  // namespace penstock
