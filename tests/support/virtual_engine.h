// VirtualEngine: an engine over fake stages in virtual time, on one thread: the time passes when a
// test says so, and nothing else happens meanwhile.
// Thread rule: one thread.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "frontend/engine.h"
#include "tests/support/fake_stage.h"
#include "tests/support/recording_sink.h"

namespace penstock {

class VirtualEngine {
 public:
  static constexpr absl::Duration kTick = absl::Milliseconds(100);

  // Loads: `model` says what the stages are like.
  VirtualEngine(const FakeModelOptions& model, int32_t num_stages, EngineOptions options,
                PipelineOptions pipeline, EngineObserver* observer = nullptr)
      : model_(model), stages_(std::make_shared<FakePipeline>(model, num_stages)) {
    options.max_sequences = model.max_sequences;
    options.max_step_tokens = model.max_step_tokens;
    pipeline.layers.clear();
    for (int32_t stage = 0; stage < num_stages; ++stage) {
      pipeline.layers.push_back({stage, stage + 1});
    }
    coordinator_ =
        std::make_unique<PipelineCoordinator>(stages_->MakeProvider(), pipeline, observer);
    coordinator_->Start(now_);
    while (coordinator_->state() == PipelineState::kLoading) {
      stages_->Run();
      coordinator_->Advance(now_);
    }
    PENSTOCK_CHECK(coordinator_->state() == PipelineState::kReady);
    const std::vector<StageCost> cost(static_cast<size_t>(num_stages), StageCost({}, {}));
    engine_ = std::make_unique<Engine>(options, PipelineCost(cost), *coordinator_, observer);
  }

  RequestId Submit(GenerationRequest request, std::shared_ptr<TokenSink> sink) {
    batch_.arrivals.push_back({++last_id_, std::move(request), std::move(sink)});
    return last_id_;
  }
  std::shared_ptr<RecordingSink> Submit(GenerationRequest request) {
    auto sink = std::make_shared<RecordingSink>();
    Submit(std::move(request), sink);
    return sink;
  }
  void Abort(RequestId id) { batch_.aborts.push_back(id); }

  void Turn() {
    engine_->Turn(now_, std::exchange(batch_, {}));
    engine_->scheduler().CheckIntegrity();
  }
  void MoveClock(absl::Duration time) { now_ += time; }
  // Turns and, if `work` says so, the stages' work until nobody has any, or `turns` have been.
  void Settle(bool work = true, int turns = 1'000'000) {
    for (; turns > 0; --turns) {
      Turn();
      bool any = false;
      for (int32_t stage = 0; work && stage < stages_->num_stages(); ++stage) {
        any = stages_->Step(stage) || any;
      }
      if (!any) return;
    }
  }
  // Time passes in ticks, in which the stages beat.
  void Pass(absl::Duration time, bool work = true) {
    for (const absl::Time until = now_ + time; now_ < until;) {
      now_ += kTick;
      stages_->BeatAll();
      Settle(work);
    }
  }

  // What the request gets when nothing runs beside it.
  std::vector<int32_t> Alone(const GenerationRequest& request) const {
    const std::vector<int32_t>& stops = request.sampling.stop_ids;
    return FakeModel(model_).Alone(request.prompt, request.max_tokens, request.sampling.seed,
                                   {stops.begin(), stops.end()});
  }

  absl::Time now() const { return now_; }
  Engine& engine() { return *engine_; }
  FakePipeline& stages() { return *stages_; }
  PipelineCoordinator& coordinator() { return *coordinator_; }
  bool AllIsFree() const {
    const EngineStats stats = engine_->stats();
    return engine_->empty() && stats.running == 0 && stats.waiting == 0 &&
           stats.blocks_free == stats.blocks_total;
  }

 private:
  const FakeModelOptions model_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::shared_ptr<FakePipeline> stages_;
  std::unique_ptr<PipelineCoordinator> coordinator_;
  std::unique_ptr<Engine> engine_;
  RequestQueue::Batch batch_;
  RequestId last_id_ = 0;
};

}  // namespace penstock
