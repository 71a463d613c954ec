// The command line of `penstock-worker`.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/base/log.h"
#include "worker/supervise.h"
#include "worker/worker_program.h"

namespace penstock {
namespace {

constexpr int kUsageError = 2;

int Run(int argc, char** argv) {
  WorkerProgramOptions options;
  SuperviseOptions supervise;
  std::string name;
  int threads = 0;
  std::string device;
  std::string gemm_table;
  double wait_seconds = 60;
  double drain_seconds = 10;
  double window_seconds = 60;
  bool supervised = false;

  CLI::App app(
      "One stage of a Penstock pipeline: computes a part of a model's layers for one front end at "
      "a "
      "time. `penstock serve --stages N` starts its workers itself; `--workers` uses those that "
      "run "
      "elsewhere.");
  app.set_version_flag("--version", "penstock-worker " PENSTOCK_VERSION);
  app.footer(
      "Example:\n"
      "  penstock-worker --listen 0.0.0.0:50052 --tls-cert w.pem --tls-key w.key --tls-ca ca.pem");
  app.add_option("--listen", options.server.listen,
                 "Where front end and other stages connect: HOST:PORT, or unix:/PATH for this user "
                 "only. Other than 127.0.0.1 a HOST needs TLS")
      ->required()
      ->type_name("ADDRESS");
  app.add_option("--advertise", options.advertise,
                 "The address by which other stages reach this one (default: that of --listen, or "
                 "what the front end calls it by)")
      ->type_name("ADDRESS");
  app.add_option("--model", options.service.model,
                 "The model, whatever path the front end says: where this machine has it")
      ->type_name("MODEL");
  CLI::Option* const threads_option =
      app.add_option("--threads", threads,
                     "Threads that compute, whatever the front end says; 0: one a core")
          ->check(CLI::Range(0, 1024))
          ->type_name("N");
  CLI::Option* const device_option =
      app.add_option("--device", device,
                     "Where it computes, whatever the front end says: cpu, or cuda:N with the "
                     "ordinal of a GPU")
          ->type_name("DEVICE");
  CLI::Option* const gemm_table_option =
      app.add_option("--gemm-table", gemm_table,
                     "Algorithms of a GPU's matrix products, whatever the front end says: a file "
                     "that penstock tune has written on this machine, or none")
          ->type_name("FILE");
  app.add_option("--tls-cert", options.server.tls.cert, "This worker's certificate, PEM")
      ->type_name("FILE");
  app.add_option("--tls-key", options.server.tls.key, "Its private key, PEM")->type_name("FILE");
  app.add_option("--tls-ca", options.server.tls.ca,
                 "The authority whose certificates front end and other workers must show, PEM")
      ->type_name("FILE");
  app.add_option("--drain-timeout", drain_seconds,
                 "After SIGTERM: seconds that the plans at hand may still take")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("SECONDS");
  app.add_option("--port-file", options.port_file,
                 "Write the port to this file (for scripts that use port 0)")
      ->type_name("FILE");
  app.add_flag("--once", options.once, "End when the front end leaves, or none comes");
  app.add_option("--wait", wait_seconds, "With --once: seconds that a front end has to come")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 1e6))
      ->type_name("SECONDS");
  app.add_option("--name", name, "What to call this worker in the log")->type_name("NAME");
  app.add_flag("--supervise", supervised,
               "Run as the parent of the worker, for example as PID 1 of a container: start it "
               "again when it ends");
  app.add_option("--max-deaths", supervise.max_deaths,
                 "With --supervise: give up after so many ends within --death-window")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N");
  app.add_option("--death-window", window_seconds, "The time in which they count")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 1e6))
      ->type_name("SECONDS");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsageError;
  }

  if (!name.empty()) SetLogName(name);
  if (supervised) {
    std::vector<std::string> arguments;
    for (int i = 0; i < argc; ++i) {
      if (std::string(argv[i]) != "--supervise") arguments.emplace_back(argv[i]);
    }
    supervise.window = absl::Seconds(window_seconds);
    return Supervise(arguments, supervise);
  }
  options.service.version = PENSTOCK_VERSION;
  if (threads_option->count() > 0) options.service.threads = threads;
  if (device_option->count() > 0) options.service.device = device;
  if (gemm_table_option->count() > 0) options.service.gemm_table = gemm_table;
  options.wait_limit = absl::Seconds(wait_seconds);
  options.drain_limit = absl::Seconds(drain_seconds);
  return RunWorkerProgram(std::move(options));
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  // gRPC prints errors of its own beside the ones that we report; whoever wants them sets this.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  return penstock::Run(argc, argv);
}
