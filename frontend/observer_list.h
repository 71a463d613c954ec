// ObserverList: one observer that tells several, in the order of their adding.
// Thread rule: Add before the engine starts; the calls as in engine_observer.h.
#pragma once

#include <vector>

#include "frontend/engine_observer.h"

namespace penstock {

class ObserverList final : public EngineObserver {
 public:
  // Borrowed.
  void Add(EngineObserver* observer) { observers_.push_back(observer); }

  void OnRequest(const RequestRecord& request) override;
  void OnRefused(absl::StatusCode code) override;
  void OnTokenGap(absl::Duration gap) override;
  void OnFirstToken(absl::Duration since_arrival) override;
  void OnPlan(uint64_t plan, int64_t rows, int64_t tokens) override;
  void OnStage(const StageRecord& record) override;
  void OnBeat(int32_t stage, const StageBeat& beat) override;
  void OnPreemption(RequestId id) override;
  void OnPrefixLookup(int64_t tokens, int64_t hits) override;
  void OnStageLost(int32_t stage, const absl::Status& status) override;
  void OnRecovered(absl::Duration time) override;
  void OnGauges(const EngineGauges& gauges) override;

 private:
  std::vector<EngineObserver*> observers_;
};

}  // namespace penstock
