// StageWatch: how the stages keep up with the plans in flight. It knows since when a stage could be
// at a plan, tells who is over a limit, and whom to blame when plans get stuck. No clock of its
// own. Thread rule: one thread, the engine's.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "core/sched/stage_types.h"
#include "core/sched/step_plan.h"

namespace penstock {

class StageWatch {
 public:
  struct Plan {
    StepPlan plan;
    absl::Time submitted;
    std::vector<absl::Time> ended;  // by stage; InfiniteFuture: not yet
  };

  // A stage whose beats have been missing for `hang_limit` hangs.
  StageWatch(int32_t num_stages, absl::Duration hang_limit)
      : hang_limit_(hang_limit), stages_(static_cast<size_t>(num_stages)) {}

  // Forgets the plans; those from `first_plan` on come next.
  void BeginEpoch(uint64_t first_plan);
  // A stage's process is another from now on: it has not beaten yet.
  void Replace(int32_t stage) { stages_[static_cast<size_t>(stage)].beat.reset(); }

  // REQUIRES: numbers count up by one.
  void Submit(StepPlan plan, absl::Time now);
  // The plan that the stage is to answer next; null: none is in flight.
  const Plan* Next(int32_t stage) const;
  // The stage has answered it. REQUIRES: Next(stage) is not null.
  void End(int32_t stage, absl::Time now);
  void Beat(int32_t stage, const StageBeat& beat, absl::Time now);
  // While nobody looked (this process did not run) no stage was late.
  void Forgive(absl::Duration gap);

  bool busy() const { return !plans_.empty(); }

  // A stage that is over its limit of a plan, and when the next one will be.
  struct Late {
    std::optional<uint64_t> plan;
    absl::Time next = absl::InfiniteFuture();
  };
  Late CheckPlans(absl::Time now) const;
  // Whose beats have been missing for too long, `watched` ones only: the most upstream.
  struct Silent {
    std::optional<int32_t> stage;
    absl::Time next = absl::InfiniteFuture();
  };
  Silent CheckBeats(const std::vector<bool>& watched, absl::Time now) const;

  // Who holds plan `number` up: the most upstream stage that neither has finished it nor waits for
  // its input, as far as its beats are fresh enough to say so. None: all wait for each other.
  std::optional<int32_t> Blame(uint64_t number, absl::Time now) const;

 private:
  struct Stage {
    uint64_t done = 0;
    absl::Time done_at = absl::InfinitePast();
    std::optional<StageBeat> beat;
    absl::Time beat_at;
  };

  int32_t last() const { return static_cast<int32_t>(stages_.size()) - 1; }
  const Plan* Find(uint64_t number) const;
  absl::Time InputAt(int32_t stage, const Plan& plan) const;

  const absl::Duration hang_limit_;
  std::vector<Stage> stages_;
  std::deque<Plan> plans_;  // that some stage has not answered, by number
};

}  // namespace penstock
