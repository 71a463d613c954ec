#include "core/sched/wait_queue.h"

#include <algorithm>

#include "core/base/check.h"

namespace penstock {
namespace {

constexpr size_t kTenantsKept = 1024;  // beside those that wait

}  // namespace

WaitQueue::LaneKey WaitQueue::LaneOf(const Sequence& sequence) {
  return {-int64_t{sequence.priority}, sequence.tenant};
}

WaitQueue::Lane::value_type WaitQueue::PlaceOf(const Sequence& sequence) {
  return {!sequence.started, sequence.arrival, const_cast<Sequence*>(&sequence)};
}

void WaitQueue::Push(Sequence& sequence) {
  const int64_t least = LeastServed();
  Tenant& tenant = tenants_[sequence.tenant];
  if (!sequence.started && tenant.waiting == 0) tenant.served = std::max(tenant.served, least);
  ++tenant.waiting;
  PENSTOCK_CHECK(lanes_[LaneOf(sequence)].insert(PlaceOf(sequence)).second);
  ++size_;
  tokens_ += sequence.prompt_tokens + sequence.max_tokens;
  prompt_tokens_ += sequence.size();
  if (tenants_.size() > 2 * lanes_.size() + kTenantsKept) Forget(least);
}

void WaitQueue::Remove(Sequence& sequence) {
  const auto lane = lanes_.find(LaneOf(sequence));
  PENSTOCK_CHECK(lane != lanes_.end());
  PENSTOCK_CHECK_EQ(lane->second.erase(PlaceOf(sequence)), size_t{1});
  if (lane->second.empty()) lanes_.erase(lane);
  --tenants_[sequence.tenant].waiting;
  last_tenant_ = sequence.tenant;
  --size_;
  tokens_ -= sequence.prompt_tokens + sequence.max_tokens;
  prompt_tokens_ -= sequence.size();
}

Sequence* WaitQueue::Head() const {
  const Lane* best = nullptr;
  int64_t least = 0;
  for (const auto& [key, lane] : lanes_) {
    if (key.first != lanes_.begin()->first.first) break;  // a lower priority
    const int64_t served = tenants_.at(key.second).served;
    const bool is_older = best != nullptr && served == least &&
                          std::get<1>(*lane.begin()) < std::get<1>(*best->begin());
    if (best != nullptr && served >= least && !is_older) continue;
    best = &lane;
    least = served;
  }
  return best == nullptr ? nullptr : std::get<2>(*best->begin());
}

void WaitQueue::Charge(int32_t tenant, int64_t weighted_tokens) {
  tenants_[tenant].served += weighted_tokens;
}

// Of the tenants that wait; if there is none, of the one that was the last to wait.
int64_t WaitQueue::LeastServed() const {
  std::optional<int64_t> least;
  for (const auto& [key, lane] : lanes_) {
    const int64_t served = tenants_.at(key.second).served;
    if (!least || served < *least) least = served;
  }
  if (least) return *least;
  const auto last = tenants_.find(last_tenant_);
  return last == tenants_.end() ? 0 : last->second.served;
}

// Those whose counter says no more than what they would be lifted to.
void WaitQueue::Forget(int64_t least) {
  for (auto each = tenants_.begin(); each != tenants_.end();) {
    const auto here = each++;
    const bool is_last = here->first == last_tenant_;
    if (here->second.waiting == 0 && here->second.served <= least && !is_last) tenants_.erase(here);
  }
}

void WaitQueue::CheckIntegrity() const {
  int64_t size = 0;
  int64_t tokens = 0;
  for (const auto& [key, lane] : lanes_) {
    PENSTOCK_CHECK(!lane.empty());
    for (const Lane::value_type& place : lane) {
      const Sequence& sequence = *std::get<2>(place);
      PENSTOCK_CHECK(sequence.slot < 0);
      PENSTOCK_CHECK(LaneOf(sequence) == key && PlaceOf(sequence) == place);
      tokens += sequence.prompt_tokens + sequence.max_tokens;
      ++size;
    }
  }
  PENSTOCK_CHECK_EQ(size, size_);
  PENSTOCK_CHECK_EQ(tokens, tokens_);
}

}  // namespace penstock
