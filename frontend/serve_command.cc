#include "frontend/serve_command.h"

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/kv_block.h"
#include "core/base/log.h"
#include "frontend/loading_display.h"
#include "frontend/port_file.h"
#include "frontend/signal_thread.h"
#include "frontend/startup_check.h"

namespace penstock {
namespace {

// How often the health of the engine is looked at for those who watch it.
constexpr std::chrono::milliseconds kHealthPeriod{250};
// What calls get to write their last words after the engine has drained.
constexpr absl::Duration kLastWrites = absl::Seconds(2);

// What the signals mean: the first one asks for a drain if there is something to drain, else it
// ends the program as the second one does.
class StopSwitch {
 public:
  void OnSignal(int count) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (count > 1 || !ready_) {
      LogWarning(ready_ ? "second signal: ending at once" : "stopped while loading");
      _exit(ready_ ? 1 : 0);
    }
    stop_ = true;
    changed_.notify_all();
  }
  void SetReady() {
    std::lock_guard<std::mutex> lock(mutex_);
    ready_ = true;
  }
  // True once the program shall stop.
  bool WaitFor(std::chrono::milliseconds timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] { return stop_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ready_ = false;  // guarded by mutex_
  bool stop_ = false;   // guarded by mutex_
};

std::string Describe(const ModelRuntime& runtime) {
  const StageInfo& info = runtime.info();
  return absl::StrFormat(
      "model %s: %d layers, hidden size %d, vocabulary %d, context %d tokens, weights %.0f MB, KV "
      "memory for %d tokens in %d blocks, loaded in %.2f s",
      runtime.limits().model, info.config.num_layers, info.config.hidden_size,
      info.config.vocab_size, runtime.limits().context_length,
      static_cast<double>(info.weight_bytes) * 1e-6, info.num_blocks * kBlockSize, info.num_blocks,
      static_cast<double>(info.load_ns) * 1e-9);
}

void DescribeStages(const ModelRuntime& runtime) {
  const std::vector<StageInfo>& stages = runtime.stages();
  for (size_t i = 0; stages.size() > 1 && i < stages.size(); ++i) {
    LogInfo(absl::StrFormat("stage %d: layers %d to %d, weights %.0f MB, %d KV blocks", i,
                            stages[i].layers.first, stages[i].layers.last - 1,
                            static_cast<double>(stages[i].weight_bytes) * 1e-6,
                            stages[i].num_blocks));
  }
}

absl::StatusOr<std::unique_ptr<ModelRuntime>> Load(const ServeOptions& options,
                                                   EngineObserver* observer) {
  RuntimeOptions runtime_options = options.runtime;
  runtime_options.observer = observer;
  if (options.startup_check) {
    PENSTOCK_ASSIGN_OR_RETURN(runtime_options.stage.check_file,
                              FindCheckFile(runtime_options.stage.model, options.verify_weights));
  }
  std::unique_ptr<ModelRuntime> runtime;
  {
    LoadingDisplayOnStderr display;
    runtime_options.progress = [&](const LoadProgress& progress) { display.Update(progress); };
    PENSTOCK_ASSIGN_OR_RETURN(runtime, ModelRuntime::Load(runtime_options));
  }
  if (!options.startup_check) return runtime;
  const absl::Time start = absl::Now();
  const std::string& path = runtime_options.stage.check_file;
  std::optional<ModelCheck> check;
  if (!path.empty()) {
    PENSTOCK_ASSIGN_OR_RETURN(check, ReadModelCheck(path));
  }
  // On a GPU the bits depend on what is computed together, unless told not to.
  const StageOptions& stage = options.runtime.stage;
  const bool exact = stage.prefill_attention == PrefillAttention::kFlash &&
                     (runtime->device() == "cpu" || stage.invariant);
  PENSTOCK_RETURN_IF_ERROR(CheckAnswers(*runtime, check, path, exact));
  LogInfo(absl::StrFormat("checked in %.2f s: %s", absl::ToDoubleSeconds(absl::Now() - start),
                          path.empty() ? "the same answer by every path; no check file"
                                       : "the check file's weights, its answer by every path"));
  return runtime;
}

absl::Status Serve(const ServeOptions& options, StopSwitch& stop) {
  PENSTOCK_ASSIGN_OR_RETURN(const ListenAddress listen, ParseListenAddress(options.listen));
  // Each is used by the next until that is gone.
  std::unique_ptr<Monitoring> monitoring;
  std::unique_ptr<ModelRuntime> runtime;
  PENSTOCK_ASSIGN_OR_RETURN(std::unique_ptr<GrpcServer> server,
                            GrpcServer::Start({listen, options.max_message_bytes}));
  PENSTOCK_ASSIGN_OR_RETURN(
      monitoring,
      Monitoring::Start(options.monitoring, static_cast<int32_t>(options.runtime.num_stages)));
  const std::string address = server->address().ToString();
  LogInfo(absl::StrCat("listening on ", address, "; loading ", options.runtime.stage.model));
  PENSTOCK_ASSIGN_OR_RETURN(runtime, Load(options, &monitoring->observer()));
  monitoring->SetModel(runtime->limits().model, runtime->stages());
  server->SetReady(runtime.get());
  monitoring->SetReady();
  stop.SetReady();
  LogInfo(Describe(*runtime));
  DescribeStages(*runtime);
  if (!options.port_file.empty()) {
    PENSTOCK_RETURN_IF_ERROR(WritePortFile(options.port_file, server->address().port));
  }
  LogInfo(absl::StrCat("ready on ", address));

  bool healthy = true;
  while (!stop.WaitFor(kHealthPeriod)) {
    server->UpdateHealth();
    if (healthy && !runtime->engine().healthy()) {
      healthy = false;
      LogError("the pipeline is lost for good, every request is refused: restart the server");
    }
  }
  LogInfo(absl::StrCat("draining: running answers have ",
                       absl::FormatDuration(options.drain_timeout),
                       " to finish, new requests are refused; a second signal ends at once"));
  server->SetDraining();
  monitoring->SetDraining();
  runtime->engine().Drain(options.drain_timeout);
  server->Shutdown(kLastWrites);
  LogInfo("stopped");
  return absl::OkStatus();
}

}  // namespace

int RunServe(ServeOptions options) {
  // The log may be a pipe whose reader has left; that ends no server.
  signal(SIGPIPE, SIG_IGN);
  // Before there are threads: it may fork.
  const absl::StatusOr<StagePlace> place = StagePlace::Prepare(options.stages, &options.runtime);
  if (!place.ok()) {
    LogError(Message(place.status()));
    return 1;
  }
  StopSwitch stop;
  const SignalThread signals([&stop](int count, int) { stop.OnSignal(count); });
  const absl::Status status = Serve(options, stop);
  if (status.ok()) return 0;
  LogError(Message(status));
  return 1;
}

}  // namespace penstock
