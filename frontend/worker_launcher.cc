#include "frontend/worker_launcher.h"

#include <unistd.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_format.h"
#include "core/base/check.h"
#include "frontend/worker_channel.h"
#include "frontend/worker_connection.h"

namespace penstock {
namespace {

ChannelFactory PlainChannels() {
  absl::StatusOr<ChannelFactory> factory = MakeChannelFactory({});
  PENSTOCK_CHECK(factory.ok());  // without files there is nothing that could fail
  return *std::move(factory);
}

}  // namespace

absl::StatusOr<std::string> FindWorkerProgram(const std::string& given) {
  std::error_code error;
  std::filesystem::path path = given;
  if (given.empty()) {
    path = std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "penstock-worker";
  }
  path = std::filesystem::absolute(path, error);
  if (!std::filesystem::is_regular_file(path, error) || access(path.c_str(), X_OK) != 0) {
    return absl::NotFoundError(
        absl::StrCat("the program of the workers, ", path.string(),
                     ", is not there: install it beside penstock, or say with --worker-program "
                     "where it is"));
  }
  return path.string();
}

WorkerLauncher::WorkerLauncher(ProcessSpawner& spawner, WorkerLaunchOptions options)
    : spawner_(spawner), options_(std::move(options)), channels_(PlainChannels()) {}

std::unique_ptr<StageConnection> WorkerLauncher::Connect(int32_t stage, EventCallback events) {
  const std::string name = absl::StrCat("stage ", stage);
  const std::string address =
      absl::StrFormat("unix:%s/stage-%d-%d", spawner_.folder(), stage, ++started_);
  const std::vector<std::string> command = {
      options_.program, "--listen",
      address,          "--once",
      "--wait",         absl::StrFormat("%.3f", absl::ToDoubleSeconds(options_.connect_limit) + 1),
      "--name",         name};
  return std::make_unique<WorkerConnection>(
      [address, this] { return MakeWorkerChannel(address, channels_); },
      WorkerConnectionOptions{.name = name,
                              .address = address,
                              .version = options_.version,
                              .connect_limit = options_.connect_limit,
                              .beat_period = options_.beat_period},
      std::move(events),
      [this, command](ProcessSpawner::OnEnd on_end) {
        return spawner_.Start(command, std::move(on_end));
      });
}

}  // namespace penstock
