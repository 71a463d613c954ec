#include "frontend/command_flags.h"
#include "frontend/replay_command.h"

namespace penstock {
namespace {

constexpr const char* kGroup = "The pipeline";

void AddSeconds(CLI::App* app, const char* name, absl::Duration* value, const char* help) {
  app->add_option_function<double>(
         name, [value](double seconds) { *value = absl::Seconds(seconds); }, help)
      ->check(CLI::Range(0.01, 1e6))
      ->default_str(std::to_string(absl::ToInt64Seconds(*value)))
      ->type_name("SECONDS")
      ->group(kGroup);
}

void AddCount(CLI::App* app, const char* name, int64_t* value, int64_t least, const char* help) {
  app->add_option(name, *value, help)
      ->capture_default_str()
      ->check(CLI::Range(least, int64_t{1} << 20))
      ->type_name("N")
      ->group(kGroup);
}

}  // namespace

void AddStageFlags(CLI::App* app, StageSetup* setup) {
  AddCount(app, "--stages", &setup->num_stages, 1,
           "Processes that share the layers, started by this one; 1: it computes itself");
  app->add_flag("--stage-processes", setup->processes, "Start a process for a single stage too")
      ->group(kGroup);
  app->add_option("--split", setup->split,
                  "The layers of each stage, such as 10,12,8 (default: the split that is fastest)")
      ->type_name("N,N,...")
      ->group(kGroup);
  app->add_option(
         "--workers", setup->workers,
         "Workers (penstock-worker --listen) that run elsewhere, a stage each, in the order "
         "of the layers")
      ->type_name("HOST:PORT,...")
      ->group(kGroup);
  app->add_option("--worker-program", setup->worker_program,
                  "The program of a stage (default: the penstock-worker beside this program)")
      ->type_name("FILE")
      ->group(kGroup);
  const auto add_file = [app](const char* name, std::string* file, const char* help) {
    app->add_option(name, *file, help)->type_name("FILE")->group(kGroup);
  };
  add_file("--tls-cert", &setup->tls.cert, "This server's certificate towards workers, PEM");
  add_file("--tls-key", &setup->tls.key, "Its private key, PEM");
  add_file("--tls-ca", &setup->tls.ca, "The authority whose certificates workers must show, PEM");
}

void AddPipelineFlags(CLI::App* app, RuntimeOptions* options) {
  PipelineOptions& pipeline = options->pipeline;
  AddCount(app, "--plans-ahead", &options->plans_ahead, 0,
           "Plans in flight at most; 0: two a stage");
  app->add_option(
         "--transport", options->transport,
         "How rows get from stage to stage: grpc, by way of the host; peer, from device to "
         "device, for stages that this program starts on GPUs that reach each other (on the "
         "CPU: by shared memory), which takes a mailbox for twice --max-step-tokens on each; "
         "nccl, from GPU to GPU, also between machines, by NVIDIA's library (libnccl.so.2, 2.18 "
         "or later and one version everywhere; PENSTOCK_NCCL_LIBRARY names another file, "
         "NCCL_SOCKET_IFNAME a machine's network interface; it takes some hundred MiB of its own "
         "on each GPU); auto: between GPUs peer where that can be, else nccl if this machine has "
         "it; else grpc")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "grpc", "nccl", "peer"}))
      ->group(kGroup);
  app->add_flag("!--no-spin", options->spin,
                "With --transport peer: kernels do not wait for those of other stages; the hosts "
                "say when rows have come. Slower; for debuggers and compute-sanitizer")
      ->group(kGroup);
  AddSeconds(app, "--hang-limit", &pipeline.hang_limit,
             "A stage that has work and says nothing for so long is killed and started again");
  AddSeconds(app, "--min-plan-limit", &pipeline.min_plan_limit,
             "Least time that a stage gets for a plan; it gets --plan-limit-factor times what the "
             "whole pipeline should take, if that is more");
  AddCount(app, "--plan-limit-factor", &pipeline.plan_limit_factor, 1, "See --min-plan-limit");
  AddSeconds(app, "--connect-limit", &pipeline.connect_limit,
             "How long stages may take to connect with each other");
  AddSeconds(app, "--load-limit", &pipeline.load_limit,
             "A stage that tells of no progress for so long while it loads is given up");
  AddCount(app, "--max-deaths", &pipeline.max_deaths, 0,
           "Stages lost within --death-window before the server gives its pipeline up");
  AddSeconds(app, "--death-window", &pipeline.death_window, "See --max-deaths");
  app->add_option(
         "--flight-recorder-dir", options->flight_recorder_dir,
         "Write the last plans to a file in this folder when a stage is lost, for penstock "
         "replay; they hold the token ids of prompts and answers")
      ->check(CLI::ExistingDirectory)
      ->type_name("DIR")
      ->group(kGroup);
  AddCount(app, "--flight-recorder-plans", &options->flight_recorder_plans, 1,
           "So many plans, the last ones of the epoch");
  app->add_flag("!--no-prefix-cache", options->engine.prefix_cache,
                "Compute every prompt from its beginning")
      ->group(kGroup);
}

Command AddReplay(CLI::App* app) {
  const auto options = std::make_shared<ReplayOptions>();
  CLI::App* replay = app->add_subcommand(
      "replay",
      "Run the plans of a flight record (serve --flight-recorder-dir) again on the CPU, and tell "
      "where the answers begin to differ; exit code 3 if they do");
  replay->footer(
      "Example:\n"
      "  penstock replay flight-20261124-101500-77-epoch-1.pb --model "
      "SmolLM2-135M-Instruct.Q4_1.gguf");
  replay->add_option("file", options->file, "The record")->required()->type_name("FILE");
  replay
      ->add_option("--model", options->model,
                   "The model that it was recorded with (default: where that lay)")
      ->type_name("MODEL");
  replay->add_option("--threads", options->threads, "Threads that compute; 0: one a core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
  return {replay, [options] { return RunReplay(*options); }};
}

}  // namespace penstock
