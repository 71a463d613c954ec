#include "frontend/observer_list.h"

namespace penstock {

void ObserverList::OnRequest(const RequestRecord& request) {
  for (EngineObserver* const observer : observers_) observer->OnRequest(request);
}

void ObserverList::OnRefused(absl::StatusCode code) {
  for (EngineObserver* const observer : observers_) observer->OnRefused(code);
}

void ObserverList::OnTokenGap(absl::Duration gap) {
  for (EngineObserver* const observer : observers_) observer->OnTokenGap(gap);
}

void ObserverList::OnFirstToken(absl::Duration since_arrival) {
  for (EngineObserver* const observer : observers_) observer->OnFirstToken(since_arrival);
}

void ObserverList::OnPlan(uint64_t plan, int64_t rows, int64_t tokens) {
  for (EngineObserver* const observer : observers_) observer->OnPlan(plan, rows, tokens);
}

void ObserverList::OnStage(const StageRecord& record) {
  for (EngineObserver* const observer : observers_) observer->OnStage(record);
}

void ObserverList::OnBeat(int32_t stage, const StageBeat& beat) {
  for (EngineObserver* const observer : observers_) observer->OnBeat(stage, beat);
}

void ObserverList::OnPreemption(RequestId id) {
  for (EngineObserver* const observer : observers_) observer->OnPreemption(id);
}

void ObserverList::OnPrefixLookup(int64_t tokens, int64_t hits) {
  for (EngineObserver* const observer : observers_) observer->OnPrefixLookup(tokens, hits);
}

void ObserverList::OnStageLost(int32_t stage, const absl::Status& status) {
  for (EngineObserver* const observer : observers_) observer->OnStageLost(stage, status);
}

void ObserverList::OnRecovered(absl::Duration time) {
  for (EngineObserver* const observer : observers_) observer->OnRecovered(time);
}

void ObserverList::OnGauges(const EngineGauges& gauges) {
  for (EngineObserver* const observer : observers_) observer->OnGauges(gauges);
}

}  // namespace penstock
