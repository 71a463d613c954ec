#include "frontend/stage_setup.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "core/sched/layer_split.h"
#include "frontend/worker_dialer.h"
#include "frontend/worker_launcher.h"

namespace penstock {
namespace {

absl::Status UseDialer(const StageSetup& setup, RuntimeOptions* runtime) {
  WorkerDialOptions options;
  PENSTOCK_ASSIGN_OR_RETURN(options.addresses, ParseWorkerList(setup.workers));
  options.tls = setup.tls;
  options.version = PENSTOCK_VERSION;
  const auto count = static_cast<int64_t>(options.addresses.size());
  if (setup.num_stages != 1 && setup.num_stages != count) {
    return absl::InvalidArgumentError(absl::StrCat("--workers names ", count,
                                                   " workers and --stages says ", setup.num_stages,
                                                   ": leave --stages out, each worker is a stage"));
  }
  runtime->num_stages = count;
  runtime->stages_are_elsewhere = true;
  runtime->make_stages = [options]() -> absl::StatusOr<std::unique_ptr<StageProvider>> {
    PENSTOCK_ASSIGN_OR_RETURN(std::unique_ptr<WorkerDialer> dialer, WorkerDialer::Make(options));
    return dialer;
  };
  return absl::OkStatus();
}

absl::Status UseLauncher(const StageSetup& setup, ProcessSpawner& spawner,
                         RuntimeOptions* runtime) {
  WorkerLaunchOptions options;
  PENSTOCK_ASSIGN_OR_RETURN(options.program, FindWorkerProgram(setup.worker_program));
  options.version = PENSTOCK_VERSION;
  // The stages of one machine share its cores.
  if (runtime->stage.threads == 0) {
    const auto cores = static_cast<int64_t>(std::thread::hardware_concurrency());
    runtime->stage.threads = static_cast<int>(std::max<int64_t>(1, cores / setup.num_stages));
  }
  runtime->num_stages = setup.num_stages;
  runtime->make_stages = [options, &spawner]() -> absl::StatusOr<std::unique_ptr<StageProvider>> {
    return std::make_unique<WorkerLauncher>(spawner, options);
  };
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StagePlace> StagePlace::Prepare(const StageSetup& setup, RuntimeOptions* runtime) {
  StagePlace place;
  if (!setup.split.empty()) {
    PENSTOCK_ASSIGN_OR_RETURN(runtime->split, ParseLayerCounts(setup.split));
  }
  if (!setup.workers.empty()) {
    PENSTOCK_RETURN_IF_ERROR(UseDialer(setup, runtime));
  } else if (setup.num_stages > 1 || setup.processes) {
    PENSTOCK_ASSIGN_OR_RETURN(place.spawner_, ProcessSpawner::Fork());
    PENSTOCK_RETURN_IF_ERROR(UseLauncher(setup, *place.spawner_, runtime));
  }
  return place;
}

}  // namespace penstock
