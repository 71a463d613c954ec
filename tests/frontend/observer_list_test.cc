#include "frontend/observer_list.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace penstock {
namespace {

// Writes down every call with its arguments.
class Recorder final : public EngineObserver {
 public:
  std::vector<std::string> calls;

  void OnRequest(const RequestRecord& request) override { Add("request ", request.id); }
  void OnRefused(absl::StatusCode code) override { Add("refused ", static_cast<int>(code)); }
  void OnTokenGap(absl::Duration gap) override { Add("gap ", absl::FormatDuration(gap)); }
  void OnFirstToken(absl::Duration time) override { Add("first ", absl::FormatDuration(time)); }
  void OnPlan(uint64_t plan, int64_t rows, int64_t tokens) override {
    Add("plan ", plan, " ", rows, " ", tokens);
  }
  void OnStage(const StageRecord& record) override { Add("stage ", record.stage); }
  void OnBeat(int32_t stage, const StageBeat& beat) override {
    Add("beat ", stage, " ", beat.done);
  }
  void OnPreemption(RequestId id) override { Add("preemption ", id); }
  void OnPrefixLookup(int64_t tokens, int64_t hits) override { Add("lookup ", tokens, " ", hits); }
  void OnStageLost(int32_t stage, const absl::Status& status) override {
    Add("lost ", stage, " ", status.message());
  }
  void OnRecovered(absl::Duration time) override { Add("back ", absl::FormatDuration(time)); }
  void OnGauges(const EngineGauges& gauges) override { Add("gauges ", gauges.running); }

 private:
  template <typename... Parts>
  void Add(const Parts&... parts) {
    calls.push_back(absl::StrCat(parts...));
  }
};

TEST(ObserverListTest, TellsAllOfThemEverything) {
  Recorder first;
  Recorder second;
  ObserverList list;
  list.Add(&first);
  list.Add(&second);
  EngineObserver& observer = list;
  RequestRecord request;
  request.id = 1;
  StageRecord stage;
  stage.stage = 2;
  StageBeat beat;
  beat.done = 3;
  EngineGauges gauges;
  gauges.running = 4;
  observer.OnRequest(request);
  observer.OnRefused(absl::StatusCode::kResourceExhausted);
  observer.OnTokenGap(absl::Seconds(5));
  observer.OnFirstToken(absl::Seconds(6));
  observer.OnPlan(7, 8, 9);
  observer.OnStage(stage);
  observer.OnBeat(10, beat);
  observer.OnPreemption(11);
  observer.OnPrefixLookup(12, 13);
  observer.OnStageLost(14, absl::UnavailableError("why"));
  observer.OnRecovered(absl::Seconds(15));
  observer.OnGauges(gauges);
  const std::vector<std::string> expected = {
      "request 1", "refused 8",     "gap 5s",       "first 6s",    "plan 7 8 9", "stage 2",
      "beat 10 3", "preemption 11", "lookup 12 13", "lost 14 why", "back 15s",   "gauges 4"};
  EXPECT_EQ(first.calls, expected);
  EXPECT_EQ(second.calls, expected);
}

}  // namespace
}  // namespace penstock
