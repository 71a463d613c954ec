// The command line of `penstock`: its options and help texts; the commands are elsewhere.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>

#include "frontend/generate_command.h"
#include "frontend/serve_command.h"
#include "frontend/tokenize_command.h"

namespace penstock {
namespace {

constexpr int kUsageError = 2;
constexpr int64_t kMib = 1 << 20;

// What --precision, --stages and the like become only once all is parsed.
struct CommandLine {
  ServeOptions serve;
  GenerateOptions generate;
  TokenizeOptions tokenize;
  std::string precision = "f32";
  std::string prompt_ids;
  int stages = 1;
  bool tokenize_json = false;  // required, so that another format may become the default
  int64_t kv_memory_mib = 1024;
  std::string prefill_attention = "flash";
  int64_t padded_memory_mib = 2048;
  double drain_seconds = 30;
  double timeout_seconds = 0;
};

void AddRuntimeOptions(CLI::App* app, RuntimeOptions* runtime, CommandLine* line) {
  app->add_option("--kv-memory-mib", line->kv_memory_mib,
                  "Memory for the keys and values of running requests, in MiB; a token of a "
                  "135M model takes 45 KiB")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->type_name("MIB");
  app->add_option("--prefill-attention", line->prefill_attention,
                  "flash: no scores in memory; padded: the plain path of padded rows and whole "
                  "scores, slower, for comparison")
      ->capture_default_str()
      ->check(CLI::IsMember({"flash", "padded"}));
  app->add_option("--padded-memory-mib", line->padded_memory_mib,
                  "Workspace that --prefill-attention padded may take, in MiB")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->type_name("MIB");
  app->add_option("--threads", runtime->stage.threads, "Threads that compute; 0: one a core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
}

// What the options above mean; the units of people become those of the stage.
void SetRuntime(const CommandLine& line, StageOptions* stage) {
  stage->kv_memory_bytes = line.kv_memory_mib * kMib;
  stage->padded_memory_bytes = line.padded_memory_mib * kMib;
  stage->prefill_attention =
      line.prefill_attention == "padded" ? PrefillAttention::kPadded : PrefillAttention::kFlash;
}

CLI::App* AddServe(CLI::App* app, CommandLine* line) {
  ServeOptions& options = line->serve;
  CLI::App* serve = app->add_subcommand(
      "serve",
      "Serve a model over gRPC (penstock.v1.Inference, health, reflection) until SIGTERM or "
      "Ctrl-C, then let running answers finish");
  serve->footer(
      "Example:\n"
      "  penstock serve --model SmolLM2-135M-Instruct.Q4_1.gguf --listen 127.0.0.1:50051");
  serve->add_option("--model", options.runtime.stage.model, "The model: a .gguf file")
      ->required()
      ->type_name("FILE");
  serve
      ->add_option("--listen", options.listen,
                   "Where to listen; 0.0.0.0 takes calls from other machines, port 0 a free port")
      ->capture_default_str()
      ->type_name("HOST:PORT");
  serve
      ->add_option("--precision", line->precision,
                   "f32: activations in float32, exact; fast: not available yet")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "fast"}));
  serve
      ->add_option("--stages", line->stages,
                   "Processes that share the layers; more than 1: not available yet")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  AddRuntimeOptions(serve, &options.runtime, line);
  serve
      ->add_option("--max-sequences", options.runtime.stage.max_sequences,
                   "Requests that run at once; others wait")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16))
      ->type_name("N");
  serve
      ->add_option("--max-step-tokens", options.runtime.stage.max_step_tokens,
                   "Tokens computed in one step, prompts and answers together; at least "
                   "--max-sequences")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16))
      ->type_name("N");
  serve
      ->add_option("--max-queued-requests", options.runtime.engine.max_queued_requests,
                   "Requests that may wait; more get RESOURCE_EXHAUSTED")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  serve
      ->add_option("--max-queued-tokens", options.runtime.engine.max_queued_tokens,
                   "Tokens (prompts and answers) that the waiting requests may need together")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 50))
      ->type_name("N");
  serve
      ->add_option("--default-max-tokens", options.runtime.limits.default_max_tokens,
                   "Tokens generated for a request that does not say how many")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  serve
      ->add_option("--max-message-bytes", options.max_message_bytes,
                   "Largest request taken, in bytes")
      ->capture_default_str()
      ->check(CLI::Range(1024, 1 << 30))
      ->type_name("BYTES");
  serve
      ->add_option("--drain-timeout", line->drain_seconds,
                   "After the first signal: seconds that running answers may still take. A second "
                   "signal ends at once")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("SECONDS");
  serve
      ->add_option("--port-file", options.port_file,
                   "Once ready, write the port to this file (for scripts that use port 0)")
      ->type_name("FILE");
  return serve;
}

CLI::App* AddGenerate(CLI::App* app, CommandLine* line) {
  GenerateOptions& options = line->generate;
  CLI::App* generate = app->add_subcommand(
      "generate", "Generate an answer and print it as it comes; figures go to standard error");
  generate->footer(
      "Examples:\n"
      "  penstock generate --server 127.0.0.1:50051 --prompt 'The capital of France is' "
      "--max-tokens 16 --temperature 0\n"
      "  penstock generate --model SmolLM2-135M-Instruct.Q4_1.gguf --prompt-ids 504,3575,282 "
      "--json");
  CLI::Option_group* source = generate->add_option_group("Source", "One of:");
  source->add_option("--server", options.server, "A running `penstock serve`")
      ->type_name("HOST:PORT");
  source
      ->add_option("--model", options.runtime.stage.model,
                   "A .gguf file, loaded into this process; no port is opened")
      ->type_name("FILE");
  source->require_option(1);
  CLI::Option_group* prompt = generate->add_option_group("Prompt", "One of:");
  prompt->add_option("--prompt", options.prompt, "The text to go on from")->type_name("TEXT");
  prompt->add_option("--prompt-ids", line->prompt_ids, "The same as token ids, for example 1,2,3")
      ->type_name("IDS");
  prompt->require_option(1);
  generate->add_flag("--special", options.special,
                     "Read names of control tokens in the text, such as <|im_start|>, as those "
                     "tokens; without it they are ordinary text");
  generate
      ->add_option("--max-tokens", options.max_tokens,
                   "Tokens to generate at most (default: the server's, 256). The model's end "
                   "token and the context's end come before")
      ->type_name("N");
  generate
      ->add_option("--temperature", options.temperature,
                   "0: always the most likely token; 1: the model's own distribution (default 1); "
                   "below 0.00001 counts as 0")
      ->type_name("T");
  generate->add_option("--top-k", options.top_k, "Sample from the k most likely tokens (0: all)")
      ->type_name("K");
  generate
      ->add_option("--top-p", options.top_p,
                   "Sample from the most likely tokens that together have probability p (1: all)")
      ->type_name("P");
  generate
      ->add_option("--seed", options.seed,
                   "The same seed and prompt give the same answer (default: drawn, and told)")
      ->type_name("N");
  generate
      ->add_option("--timeout", line->timeout_seconds, "Give up after this time (default: never)")
      ->check(CLI::Range(1e-3, 1e9))
      ->type_name("SECONDS");
  generate
      ->add_option("--precision", line->precision,
                   "f32: activations in float32, exact (default); fast: not available yet")
      ->check(CLI::IsMember({"f32", "fast"}));
  generate->add_flag("--json", options.json,
                     "Print one JSON object at the end: prompt_ids, ids (the end token included), "
                     "text, finish_reason, logprobs (natural log, one an id)");
  AddRuntimeOptions(generate, &options.runtime, line);
  return generate;
}

CLI::App* AddTokenize(CLI::App* app, CommandLine* line) {
  CLI::App* tokenize = app->add_subcommand(
      "tokenize",
      "Read JSON strings from standard input, one a line, and print the token ids of each as a "
      "JSON array");
  tokenize->footer(
      "Example:\n"
      "  echo '\"Hello world\"' | penstock tokenize --model SmolLM2-135M-Instruct.Q4_1.gguf "
      "--json");
  tokenize->add_option("--model", line->tokenize.model, "The model: a .gguf file")
      ->required()
      ->type_name("FILE");
  tokenize->add_flag("--special", line->tokenize.special,
                     "Read names of control tokens, such as <|im_start|>, as those tokens");
  tokenize->add_flag("--json", line->tokenize_json, "JSON in and out: the only format so far")
      ->required();
  return tokenize;
}

int NotAvailable(const char* what, const char* instead) {
  fprintf(stderr, "penstock: %s is not available yet: %s\n", what, instead);
  return kUsageError;
}

int Run(int argc, char** argv) {
  CLI::App app("Penstock serves Llama-family language models over gRPC.");
  app.set_version_flag("--version", "penstock " PENSTOCK_VERSION);
  app.require_subcommand(1);
  app.footer("Each subcommand explains itself: penstock serve --help");
  CommandLine line;
  CLI::App* serve = AddServe(&app, &line);
  CLI::App* generate = AddGenerate(&app, &line);
  AddTokenize(&app, &line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsageError;
  }
  if (line.precision == "fast") {
    return NotAvailable("--precision fast", "leave it out, or use --precision f32");
  }
  if (line.stages > 1) return NotAvailable("--stages above 1", "leave it out, or use --stages 1");
  if (app.got_subcommand(serve)) {
    SetRuntime(line, &line.serve.runtime.stage);
    line.serve.drain_timeout = absl::Seconds(line.drain_seconds);
    return RunServe(line.serve);
  }
  if (!app.got_subcommand(generate)) return RunTokenize(line.tokenize);
  SetRuntime(line, &line.generate.runtime.stage);
  line.generate.runtime.stage.max_sequences = 1;
  if (generate->count("--timeout") > 0) {
    line.generate.timeout = absl::Seconds(line.timeout_seconds);
  }
  if (generate->count("--precision") > 0) line.generate.precision = line.precision;
  if (generate->get_option("--prompt-ids")->count() > 0) {
    absl::StatusOr<std::vector<int32_t>> ids = ParseTokenIds(line.prompt_ids);
    if (!ids.ok()) {
      fprintf(stderr, "--prompt-ids: %s\n", Message(ids.status()).c_str());
      return kUsageError;
    }
    line.generate.prompt_ids = std::move(*ids);
  }
  return RunGenerate(line.generate);
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  // gRPC prints errors of its own beside the ones that we report; whoever wants them sets this.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  return penstock::Run(argc, argv);
}
