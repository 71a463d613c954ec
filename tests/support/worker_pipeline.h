// WorkerPipeline: the stages of a provider, driven by a test as the coordinator does: dummy:tiny
// over so many stages, epochs, and plans of one sequence.
// Thread rule: one thread, the test's.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/stage_events.h"

namespace penstock {

class WorkerPipeline {
 public:
  WorkerPipeline(StageProvider& provider, int32_t num_stages)
      : provider_(provider), places_(static_cast<size_t>(num_stages)) {
    for (int32_t stage = 0; stage < num_stages; ++stage) Connect(stage);
  }

  StageEvents& events(size_t stage) { return *places_[stage].events; }
  StageConnection& connection(size_t stage) { return *places_[stage].connection; }
  const StageInfo& info(size_t stage) const { return places_[stage].info; }

  // In place of what was there.
  void Connect(int32_t stage) {
    Place& place = places_[static_cast<size_t>(stage)];
    place.connection.reset();
    place.events = std::make_unique<StageEvents>();
    place.connection = provider_.Connect(stage, place.events->callback());
  }
  void Load(int32_t stage) {
    const auto num_stages = static_cast<int32_t>(places_.size());
    StageOptions options;
    options.model = "dummy:tiny";
    options.kv_memory_bytes = 1 << 20;
    options.max_step_tokens = 64;
    options.max_sequences = 4;
    options.threads = 1;
    options.stage = stage;
    options.num_stages = num_stages;
    options.layers = {kLayers * stage / num_stages, kLayers * (stage + 1) / num_stages};
    options.num_blocks = 8;
    connection(static_cast<size_t>(stage)).Load(options);
  }
  void LoadAll() {
    for (size_t i = 0; i < places_.size(); ++i) Load(static_cast<int32_t>(i));
    for (Place& place : places_) place.info = place.events->Next<StageInfo>();
  }
  void TakeInfo(size_t stage) { places_[stage].info = events(stage).Next<StageInfo>(); }

  void BeginEpoch(uint32_t epoch) {
    for (size_t i = 0; i < places_.size(); ++i) {
      EpochStart start;
      start.epoch = epoch;
      start.first_plan = next_plan_;
      start.num_blocks = 8;
      start.connect_ns = 60'000'000'000;
      if (i + 1 < places_.size()) {
        start.next = places_[i + 1].info.address;
      } else if (i > 0) {
        start.first = places_[0].info.address;
      }
      connection(i).BeginEpoch(start);
    }
    for (Place& place : places_) EXPECT_EQ(place.events->Next<EpochEntered>().epoch, epoch);
    epoch_ = epoch;
  }

  // Feeds tokens at a position, to every stage at once; does not wait. Position 0 admits.
  void Submit(const std::vector<int32_t>& tokens, int64_t position) {
    StepPlan plan;
    plan.number = next_plan_++;
    plan.epoch = epoch_;
    if (position == 0) {
      plan.admissions.push_back({0, ++generation_, {}, static_cast<int64_t>(tokens.size()), {}});
      plan.admissions[0].sampling.temperature = 1;
      plan.admissions[0].sampling.seed = 17;
    }
    PlanRow row;
    row.generation = generation_;
    row.position = position;
    row.tokens = tokens;
    row.blocks = {0};
    row.sample = true;
    plan.rows.push_back(row);
    for (size_t i = 0; i < places_.size(); ++i) connection(i).Submit(plan);
  }
  // What the last stage sampled, once all stages are done with the oldest plan.
  int32_t Result() {
    StepResult result;
    for (Place& place : places_) result = place.events->Next<StepResult>();
    return result.samples.size() == 1 ? result.samples[0].token : kNoToken;
  }
  // The answer to a prompt, of at most a block together.
  std::vector<int32_t> Generate(std::vector<int32_t> prompt, int64_t count) {
    std::vector<int32_t> answer;
    int64_t position = 0;
    while (static_cast<int64_t>(answer.size()) < count) {
      Submit(prompt, position);
      position += static_cast<int64_t>(prompt.size());
      answer.push_back(Result());
      if (testing::Test::HasFailure()) break;
      prompt = {answer.back()};
    }
    return answer;
  }

 private:
  static constexpr int64_t kLayers = 4;  // of dummy:tiny

  struct Place {
    std::unique_ptr<StageEvents> events;
    std::unique_ptr<StageConnection> connection;  // goes before its events
    StageInfo info;
  };

  StageProvider& provider_;
  std::vector<Place> places_;
  uint32_t epoch_ = 0;
  uint64_t next_plan_ = 1;
  uint32_t generation_ = 0;
};

}  // namespace penstock
