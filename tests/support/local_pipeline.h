// A pipeline of stages inside the test's process, over the local transport, driven as the
// coordinator does: every plan to every stage at once, as many ahead as the test wants.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/status_matchers.h"
#include "worker/pipeline_stage.h"
#include "worker/transport/local_transport.h"

namespace penstock::testing {

// Layers [0, cuts[0]), [cuts[0], cuts[1]), ..., up to num_layers.
inline std::vector<LayerRange> Split(int64_t num_layers, const std::vector<int64_t>& cuts) {
  std::vector<LayerRange> ranges;
  int64_t first = 0;
  for (const int64_t cut : cuts) {
    ranges.push_back({first, cut});
    first = cut;
  }
  ranges.push_back({first, num_layers});
  return ranges;
}

// Thread rule: one thread, the test's.
class LocalPipeline {
 public:
  using MakeExecutor = std::unique_ptr<StageExecutor> (*)();

  // Loads a stage for each range.
  LocalPipeline(StageOptions options, const std::vector<LayerRange>& ranges,
                MakeExecutor make = &MakeModelStage)
      : LocalPipeline(std::move(options), ranges, {}, make) {}
  LocalPipeline(StageOptions options, const std::vector<LayerRange>& ranges,
                const TransportOptions& transport, MakeExecutor make = &MakeModelStage) {
    options.num_stages = static_cast<int32_t>(ranges.size());
    for (const LayerRange& range : ranges) {
      Place& place = places_.emplace_back();
      place.transport = MakeLocalTransport(exchange_, transport);
      place.stage = std::make_unique<PipelineStage>(make(), place.transport.get());
      options.layers = range;
      const auto info = place.stage->Load(options, [](const LoadProgress&) {});
      EXPECT_TRUE(IsOk(info));
      if (info.ok()) infos_.push_back(*info);
      ++options.stage;
    }
  }

  size_t num_stages() const { return places_.size(); }
  PipelineStage& stage(size_t i) { return *places_[i].stage; }
  void Destroy(size_t i) { places_[i].stage.reset(); }
  const StageInfo& info(size_t i) const { return infos_[i]; }
  const StageInfo& info() const { return infos_.front(); }

  EpochStart Start(size_t i, uint32_t epoch, uint64_t first_plan) const {
    EpochStart start;
    start.epoch = epoch;
    start.first_plan = first_plan;
    start.num_blocks = infos_.front().num_blocks;
    for (const StageInfo& info : infos_)
      start.num_blocks = std::min(start.num_blocks, info.num_blocks);
    if (i + 1 < places_.size()) {
      start.next = infos_[i + 1].address;
    } else if (i > 0) {
      start.first = infos_[0].address;
    }
    return start;
  }

  // All stages at once, as they find each other.
  void BeginEpoch(uint32_t epoch, uint64_t first_plan) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < places_.size(); ++i) {
      threads.emplace_back([this, i, start = Start(i, epoch, first_plan)] {
        EXPECT_TRUE(IsOk(places_[i].stage->BeginEpoch(start))) << "stage " << i;
      });
    }
    for (std::thread& thread : threads) thread.join();
    std::lock_guard<std::mutex> lock(mutex_);
    for (Place& place : places_) place.answers.clear();
  }

  void Submit(const StepPlan& plan) {
    for (size_t i = 0; i < places_.size(); ++i) SubmitTo(i, plan);
  }
  void SubmitTo(size_t i, const StepPlan& plan) {
    places_[i].stage->Submit(plan, [this, i](absl::StatusOr<StepResult> result) {
      std::lock_guard<std::mutex> lock(mutex_);
      places_[i].answers.push_back(std::move(result));
      changed_.notify_all();
    });
  }

  // The stage's next answer, waiting for it.
  absl::StatusOr<StepResult> Next(size_t i) {
    std::unique_lock<std::mutex> lock(mutex_);
    std::deque<absl::StatusOr<StepResult>>& answers = places_[i].answers;
    changed_.wait(lock, [&] { return !answers.empty(); });
    absl::StatusOr<StepResult> answer = std::move(answers.front());
    answers.pop_front();
    return answer;
  }
  // Every stage's answer; the last one's. The first that failed, if one has.
  absl::StatusOr<StepResult> Next() {
    absl::StatusOr<StepResult> result = absl::InternalError("no stage");
    for (size_t i = 0; i < places_.size(); ++i) {
      result = Next(i);
      if (!result.ok()) return result;
      EXPECT_TRUE(i + 1 == places_.size() || result->samples.empty());
    }
    return result;
  }
  size_t num_answers(size_t i) {
    std::lock_guard<std::mutex> lock(mutex_);
    return places_[i].answers.size();
  }

 private:
  struct Place {
    std::unique_ptr<Transport> transport;
    std::deque<absl::StatusOr<StepResult>> answers;  // guarded by mutex_
    std::unique_ptr<PipelineStage> stage;            // last: its callbacks use the rest
  };

  const std::shared_ptr<LocalExchange> exchange_ = std::make_shared<LocalExchange>();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<StageInfo> infos_;
  std::deque<Place> places_;  // last: stages end first
};

}  // namespace penstock::testing
