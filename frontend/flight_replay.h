// Runs a flight record's plans again, on one stage of the whole model, and holds every sample and
// log-probability against what was recorded. Of a sequence that began before the record, the stage
// lacks what was fed until then: its rows are left out, and counted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/base/status.h"
#include "frontend/flight_recorder.h"
#include "worker/stage.h"

namespace penstock {

struct FlightReplay {
  int64_t plans = 0;       // executed
  int64_t compared = 0;    // samples and log-probabilities of prompts
  int64_t left_out = 0;    // rows
  std::string difference;  // the first one, in a sentence; empty: none
};

// REQUIRES: the stage has loaded. Errors: the stage's, with the plan's number, where it could not
// run a plan: that is what ended the epoch, or the record is damaged.
absl::StatusOr<FlightReplay> ReplayFlight(const FlightRecord& record, StageExecutor& stage);

}  // namespace penstock
