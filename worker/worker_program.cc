#include "worker/worker_program.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <utility>

#include "absl/time/clock.h"
#include "core/base/listen_address.h"
#include "core/base/log.h"
#include "worker/pipeline_stage.h"
#include "worker/stage.h"

namespace penstock {
namespace {

// A worker's life, as its main thread sees it.
class Life {
 public:
  explicit Life(const WorkerProgramOptions& options) : options_(options) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  }
  ~Life() {
    close(signals_);
    close(wake_);
  }

  // The service's callbacks, for any thread.
  void Install(WorkerServiceOptions* service) {
    service->on_owned = [this] { Count(&owned_); };
    service->on_left = [this] { Count(&left_); };
    service->on_freed = [this] { Count(&freed_); };
  }

  // Until there is nothing more to do; gives the exit code.
  int Run(WorkerService& service) {
    if (options_.once) limit_ = absl::Now() + options_.wait_limit;
    while (true) {
      pollfd fds[] = {{signals_, POLLIN, 0}, {wake_, POLLIN, 0}};
      poll(fds, 2, PollMilliseconds());
      eventfd_t counted = 0;
      eventfd_read(wake_, &counted);
      signalfd_siginfo signal = {};
      if (read(signals_, &signal, sizeof(signal)) > 0 && OnSignal(service)) return 0;
      const int owned = owned_;
      if (OnEvents(owned)) return 0;
      if (absl::Now() >= limit_) return OnLimit(owned);
    }
  }

 private:
  void Count(std::atomic<int>* events) {
    ++*events;
    eventfd_write(wake_, 1);
  }

  int PollMilliseconds() const {
    if (limit_ == absl::InfiniteFuture()) return -1;
    const int64_t left = absl::ToInt64Milliseconds(limit_ - absl::Now()) + 1;
    return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
  }

  // True if the program is to end.
  bool OnSignal(WorkerService& service) {
    if (draining_) _exit(1);  // the second one
    draining_ = true;
    if (!service.Drain()) return true;
    LogInfo(absl::StrCat("draining: the plans that are here have ",
                         absl::FormatDuration(options_.drain_limit),
                         " to finish; a second signal ends at once"));
    limit_ = absl::Now() + options_.drain_limit;
    return false;
  }

  bool OnEvents(int owned) {
    if (owned > seen_owned_) {
      seen_owned_ = owned;
      if (!draining_) limit_ = absl::InfiniteFuture();
      LogInfo("a front end has come");
    }
    if (const int left = left_; left > seen_left_) {
      seen_left_ = left;
      limit_ = std::min(limit_, absl::Now() + options_.free_limit);
    }
    if (const int freed = freed_; freed > seen_freed_) {
      seen_freed_ = freed;
      if (options_.once || draining_) return true;
      if (freed == owned_) limit_ = absl::InfiniteFuture();
      LogInfo("the front end has left, its stage is freed; ready for another one");
    }
    return false;
  }

  int OnLimit(int owned) {
    if (owned == 0) {
      LogError(absl::StrCat("no front end has come within ",
                            absl::FormatDuration(options_.wait_limit),
                            ": see what became of penstock serve"));
      return 1;
    }
    // Whatever holds the stage up would hold up an orderly end, too.
    LogError(draining_ && seen_left_ == seen_freed_
                 ? "the plans have not finished in time; the worker ends without them"
                 : "the stage of the front end that has left is still busy; the worker ends");
    _exit(1);
  }

  const WorkerProgramOptions& options_;
  int signals_ = -1;
  int wake_ = -1;
  std::atomic<int> owned_ = 0;
  std::atomic<int> left_ = 0;
  std::atomic<int> freed_ = 0;

  // The main thread's own.
  int seen_owned_ = 0;
  int seen_left_ = 0;
  int seen_freed_ = 0;
  bool draining_ = false;
  absl::Time limit_ = absl::InfiniteFuture();
};

// Where other stages find this one; empty if only the front end can know.
absl::StatusOr<std::string> StageAddress(const WorkerProgramOptions& options) {
  if (!options.advertise.empty()) {
    PENSTOCK_RETURN_IF_ERROR(
        Annotate(CheckPeerAddress(options.advertise, options.server.tls), "--advertise"));
    return options.advertise;
  }
  if (options.server.listen.rfind("unix:", 0) == 0) return options.server.listen;
  PENSTOCK_ASSIGN_OR_RETURN(const ListenAddress listen, ParseListenAddress(options.server.listen));
  return listen.wildcard() || listen.port == 0 ? "" : listen.ToString();
}

absl::Status WritePortFile(const std::string& path, const std::string& address) {
  const std::string temporary = path + ".part";
  FILE* const file = fopen(temporary.c_str(), "we");
  const bool written =
      file != nullptr && fprintf(file, "%s\n", address.substr(address.rfind(':') + 1).c_str()) > 0;
  if ((file != nullptr && fclose(file) != 0) || !written ||
      rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--port-file: ", path, " cannot be written: choose another file"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> Run(WorkerProgramOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::string address, StageAddress(options));
  PENSTOCK_ASSIGN_OR_RETURN(const ChannelFactory channels, MakeChannelFactory(options.server.tls));
  // A host that vanishes closes no connection.
  if (options.server.listen.rfind("unix:", 0) != 0) {
    options.server.transport.ping_period = absl::Seconds(5);
  }
  Life life(options);
  life.Install(&options.service);
  GrpcTransferService transfer(options.server.transport.transport);
  const std::unique_ptr<Transport> transport =
      MakeGrpcTransport(transfer, address, channels, options.server.transport);
  WorkerService service(
      [&transport]() -> std::unique_ptr<StageHost> {
        return std::make_unique<PipelineStage>(MakeModelStage(), transport.get());
      },
      options.service);
  PENSTOCK_ASSIGN_OR_RETURN(const std::unique_ptr<WorkerServer> server,
                            WorkerServer::Start(options.server, {&service, &transfer.service()}));
  LogInfo(absl::StrCat("listening on ", server->address()));
  if (!options.port_file.empty()) {
    PENSTOCK_RETURN_IF_ERROR(WritePortFile(options.port_file, server->address()));
  }
  const int code = life.Run(service);
  transfer.Shutdown();
  return code;
}

}  // namespace

int RunWorkerProgram(WorkerProgramOptions options) {
  // The log may be a pipe whose reader has left; that ends no worker.
  signal(SIGPIPE, SIG_IGN);
  const absl::StatusOr<int> code = Run(options);
  if (code.ok()) return *code;
  LogError(Message(code.status()));
  return 1;
}

}  // namespace penstock
