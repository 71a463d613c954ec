// Flight records as files: one protobuf message each (proto/penstock/worker/v1/flight.proto), for
// their owner's eyes only, since they hold the ids of prompts and answers.
// Thread rule: ReadFlightRecord is thread-safe.
#pragma once

#include <string>

#include "core/base/status.h"
#include "frontend/flight_recorder.h"

namespace penstock {

// Writes each record to a file of its own in `dir`, on a thread of its own, and logs where. What it
// was given is written by the time the last copy of it is gone.
FlightRecorder::Writer MakeFlightWriter(const std::string& dir);

// Errors: NOT_FOUND, INVALID_ARGUMENT for what is no record, with the file's name.
absl::StatusOr<FlightRecord> ReadFlightRecord(const std::string& path);

}  // namespace penstock
