// What the coordinator of a pipeline has to know. All are settings of the front end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/sched/stage_types.h"

namespace penstock {

struct PipelineOptions {
  // As every stage is to load; its place, layers, hash and blocks are set by the coordinator.
  StageOptions stage;
  std::vector<std::string> devices;  // one a stage, in order; empty: stage.device for all
  std::vector<LayerRange> layers = {LayerRange{}};  // one a stage, in order; count() 0: all

  // A stage may take for a plan what the whole pipeline is predicted to take, so many times, and
  // never less than min_plan_limit. An infinite one: there is no limit.
  int64_t plan_limit_factor = 20;
  absl::Duration min_plan_limit = absl::Seconds(1);
  // A stage with work that says nothing for so long hangs (a stopped process).
  absl::Duration hang_limit = absl::Seconds(2);
  // A stage that loads and tells of no progress for so long hangs.
  absl::Duration load_limit = absl::Minutes(5);
  // How long the stages of a new epoch may take to connect.
  absl::Duration connect_limit = absl::Seconds(5);
  // More deaths within the window are a crash loop: the pipeline is given up.
  int64_t max_deaths = 5;
  absl::Duration death_window = absl::Minutes(1);
};

}  // namespace penstock
