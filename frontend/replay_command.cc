#include "frontend/replay_command.h"

#include <iostream>
#include <memory>

#include "core/base/status.h"
#include "frontend/flight_file.h"
#include "frontend/flight_replay.h"
#include "worker/stage.h"

namespace penstock {
namespace {

constexpr int kDifferent = 3;

absl::StatusOr<FlightReplay> Replay(const ReplayOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(const FlightRecord record, ReadFlightRecord(options.file));
  std::cout << "epoch " << record.epoch << ", " << record.entries.size()
            << " plans, ended: " << record.reason << "\n";
  StageOptions stage = record.stage;
  if (!options.model.empty()) stage.model = options.model;
  stage.threads = options.threads;
  stage.device = "cpu";
  stage.precision = DataType::kF32;
  stage.check_file.clear();
  stage.model_hash = record.model_hash;
  stage.num_blocks = record.num_blocks;
  stage.stage = 0;
  stage.num_stages = 1;
  stage.layers = {};
  const std::unique_ptr<StageExecutor> executor = MakeModelStage();
  PENSTOCK_RETURN_IF_ERROR(executor->Load(stage).status());
  return ReplayFlight(record, *executor);
}

}  // namespace

int RunReplay(const ReplayOptions& options) {
  const absl::StatusOr<FlightReplay> replay = Replay(options);
  if (!replay.ok()) {
    std::cerr << "penstock replay: " << Message(replay.status()) << "\n";
    return 1;
  }
  std::cout << replay->plans << " plans run, " << replay->compared
            << " samples and log-probabilities compared, " << replay->left_out
            << " rows left out (of sequences that began before the record)\n";
  if (replay->difference.empty()) {
    std::cout << "all as recorded\n";
    return 0;
  }
  std::cout << "first difference: " << replay->difference << "\n";
  return kDifferent;
}

}  // namespace penstock
