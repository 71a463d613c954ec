#include "frontend/bench_kernels_command.h"
#include "frontend/bench_model_command.h"
#include "frontend/bench_serve_command.h"
#include "frontend/command_flags.h"

namespace penstock {
namespace {

struct BenchModelFlags {
  BenchModelOptions options;
  PrecisionFlag precision;
  int64_t kv_memory_mib = 0;
};

struct BenchKernelsFlags {
  BenchKernelsOptions options;
  PrecisionFlag precision;
};

Command AddBenchServe(CLI::App* bench) {
  const auto owned = std::make_shared<BenchServeOptions>();
  BenchServeOptions& options = *owned;
  CLI::App* serve = bench->add_subcommand("serve",
                                          "Replay a trace of requests against a server, check the "
                                          "answers and print how fast they came");
  serve->footer(
      "Example:\n"
      "  tests/bench/trace.py --requests 200 --rate 4 > trace.jsonl\n"
      "  penstock bench serve --server 127.0.0.1:50051 --trace trace.jsonl --check 8");
  serve->add_option("--server,--address", options.server, "The server")
      ->capture_default_str()
      ->type_name("HOST:PORT");
  serve
      ->add_option("--trace", options.trace,
                   "The trace, as tests/bench/trace.py makes it: a JSON object a line with arrival "
                   "(seconds), prompt, output (tokens) and seed; -: standard input")
      ->required()
      ->type_name("FILE");
  const auto count = [serve](const char* name, int64_t* value, const char* help) {
    serve->add_option(name, *value, help)
        ->capture_default_str()
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
        ->type_name("N");
  };
  count("--limit", &options.limit, "Only the first N requests; 0: all");
  count("--max-prompt", &options.max_prompt, "Cut longer prompts to N tokens; 0: to the context");
  count("--max-output", &options.max_output, "Cut longer answers to N tokens; 0: to the context");
  count("--concurrency", &options.run.concurrency,
        "At most N requests under way, others wait for one to end; 0: no limit");
  count("--seed", &options.run.seed,
        "Added to each request's seed: other prompts of the same lengths");
  count("--check", &options.check,
        "Send the first N requests once more, alone: the answers must be the same");
  serve
      ->add_option("--rate-scale", options.run.rate_scale,
                   "Requests come so many times as fast as the trace says")
      ->capture_default_str()
      ->check(CLI::Range(1e-6, 1e6))
      ->type_name("X");
  serve->add_option("--connections", options.connections, "Over so many connections")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  const auto target = [serve](const char* name, double* value, const char* help) {
    serve->add_option(name, *value, help)->check(CLI::Range(0.0, 1e9))->type_name("MS");
  };
  target("--slo-ttft-ms", &options.targets.first_token_ms,
         "Goodput counts answers whose first token came within this time");
  target("--slo-itl-ms", &options.targets.token_gap_ms,
         "Goodput counts answers whose mean time between tokens is at most this");
  serve->add_option("--json", options.json, "Write the figures to this file as a JSON object")
      ->type_name("FILE");
  const auto timeout = AddTimeout(serve, "Give a request up after this time (default: never)");
  return {serve, [owned, timeout] {
            owned->run.timeout = timeout();
            return RunBenchServe(*owned);
          }};
}

Command AddBenchModel(CLI::App* bench) {
  const auto flags = std::make_shared<BenchModelFlags>();
  BenchModelOptions& options = flags->options;
  CLI::App* model = bench->add_subcommand(
      "model",
      "Load a model into this process, check and time single steps of it, and hold them against "
      "the device's read bandwidth and matrix product, measured in the same run");
  model->footer(
      "Examples:\n"
      "  penstock bench model --model SmolLM2-135M-Instruct.Q4_1.gguf --case 1x256 "
      "--case prefill:1x512\n"
      "  penstock bench model --model dummy:llama-2-7b --device cuda:0 --precision bf16 "
      "--case 1x1024 --case 64x1024");
  model
      ->add_option("--model", options.stage.model,
                   "The model: a .gguf file, a Hugging Face folder or dummy:NAME")
      ->required()
      ->type_name("MODEL");
  model
      ->add_option("--case", options.cases,
                   "A step to time, several times: BATCHxCONTEXT, sequences that decode one token "
                   "each, the last of so many; prefill:PROMPTSxTOKENS, whole prompts at once")
      ->required()
      ->type_name("CASE");
  model->add_option("--steps", options.steps, "Timed steps of each case; the median is told")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->type_name("N");
  model
      ->add_option("--device", options.stage.device,
                   "Where the model runs: cpu, or cuda:N with the ordinal of a GPU (in a build "
                   "with CUDA)")
      ->capture_default_str()
      ->type_name("DEVICE");
  flags->precision.Add(model);
  model->add_flag("--invariant", options.stage.invariant,
                  "On a GPU, fix every order of summation: a token has the same bits in any batch "
                  "and chunk");
  AddGemmTable(model, &options.stage.gemm_table);
  model->add_option("--threads", options.stage.threads, "Threads that compute; 0: one a core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
  model
      ->add_option("--kv-memory-mib", flags->kv_memory_mib,
                   "Memory for keys and values, in MiB (default: what the cases need)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->type_name("MIB");
  model->add_option("--json", options.json, "Write the figures to this file as a JSON object")
      ->type_name("FILE");
  return {model, [flags] {
            if (!flags->precision.Check()) return kUsageError;
            BenchModelOptions& options = flags->options;
            options.kv_memory_bytes = flags->kv_memory_mib << 20;
            options.stage.precision =
                PrecisionByName(flags->precision.value()).value_or(DataType::kF32);
            return RunBenchModel(options);
          }};
}

Command AddBenchKernels(CLI::App* bench) {
  const auto flags = std::make_shared<BenchKernelsFlags>();
  BenchKernelsOptions& options = flags->options;
  options.tokens = {1, 64};
  options.prompts = {2048};
  options.stage.model = "dummy:llama-2-7b";
  CLI::App* kernels = bench->add_subcommand(
      "kernels",
      "Check and time each kernel at a model's shapes, and hold it against the device's read "
      "bandwidth and matrix product, measured in the same run");
  kernels->footer(
      "Examples:\n"
      "  penstock bench kernels --device cuda:0 --precision bf16 --tokens 1,64,2048\n"
      "  penstock bench kernels --model SmolLM2-135M-Instruct.Q4_1.gguf --tokens 1,32");
  kernels
      ->add_option("--model", options.stage.model,
                   "The model whose shapes count: a .gguf file, a Hugging Face folder or "
                   "dummy:NAME; its weights are not read")
      ->capture_default_str()
      ->type_name("MODEL");
  kernels
      ->add_option("--device", options.stage.device,
                   "Where the kernels run: cpu, or cuda:N with the ordinal of a GPU (in a build "
                   "with CUDA)")
      ->capture_default_str()
      ->type_name("DEVICE");
  flags->precision.Add(kernels);
  AddGemmTable(kernels, &options.stage.gemm_table);
  const auto list = [kernels](const char* name, std::vector<int64_t>* values, const char* help) {
    kernels->add_option(name, *values, help)
        ->delimiter(',')
        ->capture_default_str()
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
        ->type_name("N,N,...");
  };
  list("--tokens", &options.tokens,
       "Steps of so many tokens; up to 256 of them also as sequences that decode");
  list("--prompts", &options.prompts, "Prefill attention of prompts of so many tokens");
  kernels->add_option("--context", options.context, "Tokens that decoding sequences have")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->type_name("N");
  kernels->add_option("--threads", options.stage.threads, "Threads that compute; 0: one a core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
  kernels->add_option("--json", options.json, "Write the figures to this file as a JSON object")
      ->type_name("FILE");
  return {kernels, [flags] {
            if (!flags->precision.Check()) return kUsageError;
            flags->options.stage.precision =
                PrecisionByName(flags->precision.value()).value_or(DataType::kF32);
            return RunBenchKernels(flags->options);
          }};
}

}  // namespace

Command AddBench(CLI::App* app) {
  CLI::App* bench = app->add_subcommand("bench", "Measure");
  bench->require_subcommand(1);
  const std::vector<Command> commands = {AddBenchServe(bench), AddBenchModel(bench),
                                         AddBenchKernels(bench)};
  return {bench, [bench, commands] {
            for (const Command& command : commands) {
              if (bench->got_subcommand(command.app)) return command.run();
            }
            return kUsageError;
          }};
}

}  // namespace penstock
