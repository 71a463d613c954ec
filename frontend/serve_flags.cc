#include "frontend/command_flags.h"
#include "frontend/serve_command.h"

namespace penstock {
namespace {

struct ServeFlags {
  ServeOptions options;
  RuntimeFlags runtime;
  PrecisionFlag precision;
  double drain_seconds = 30;
  double default_timeout_seconds = 600;
  double max_timeout_seconds = 0;
  int64_t max_stream_buffer_kib = 2048;
  double slow_reader_seconds = 30;
  int64_t trace_max_mib = 1024;
};

// What the server shows of itself.
void AddMonitoring(CLI::App* serve, MonitoringOptions* options, int64_t* trace_max_mib) {
  const std::string group = "Monitoring";
  serve
      ->add_option(
          "--metrics-listen", options->metrics_listen,
          "Where Prometheus' /metrics, the probes /livez and /readyz and a status page are "
          "served, in plain HTTP over IPv4; port 0: a free one; off: nowhere")
      ->capture_default_str()
      ->type_name("HOST:PORT")
      ->group(group);
  serve
      ->add_option("--metrics-port-file", options->metrics_port_file,
                   "Write the port of --metrics-listen to this file")
      ->type_name("FILE")
      ->group(group);
  serve
      ->add_option("--trace-file", options->trace_file,
                   "Write a timeline of the plans on every stage to this file, for "
                   "https://ui.perfetto.dev")
      ->type_name("FILE")
      ->group(group);
  serve->add_option("--trace-max-mib", *trace_max_mib, "Where that file ends, in MiB")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->type_name("MIB")
      ->group(group);
}

// What a request may ask for.
void AddRequestLimits(CLI::App* serve, RequestLimits* limits, ServeFlags* flags) {
  const auto add = [serve](const char* name, auto* value, const char* help, const char* unit,
                           int64_t min, int64_t max) {
    serve->add_option(name, *value, help)
        ->capture_default_str()
        ->check(CLI::Range(min, max))
        ->type_name(unit)
        ->group("Limits of a request");
  };
  constexpr int64_t kMany = 1 << 30;
  add("--default-max-tokens", &limits->default_max_tokens,
      "Tokens generated for a request that does not say how many", "N", 1, kMany);
  add("--max-new-tokens", &limits->max_new_tokens,
      "Most tokens that a request may ask for; 0: what the context holds", "N", 0, kMany);
  add("--max-prompt-bytes", &limits->max_prompt_bytes,
      "Largest text of a prompt, or of a chat's messages together", "BYTES", 1, kMany);
  add("--max-chat-messages", &limits->max_chat_messages, "Most messages of a chat", "N", 1, kMany);
  add("--max-n", &limits->max_n, "Most answers to one prompt (n)", "N", 1, 1024);
  add("--max-logprobs", &limits->max_logprobs,
      "Most alternatives told beside a token (logprobs, prompt_logprobs)", "N", 0, kMaxLogprobs);
  add("--max-stop-texts", &limits->max_stop_texts, "Most stop texts", "N", 0, 1024);
  add("--max-stop-bytes", &limits->max_stop_bytes, "Longest stop text or bad word", "BYTES", 1,
      1 << 16);
  add("--max-stop-ids", &limits->max_stop_ids, "Most stop ids", "N", 0, 1 << 20);
  add("--max-logit-bias", &limits->max_logit_bias, "Most entries of logit_bias", "N", 0, 1 << 20);
  add("--max-bad-words", &limits->max_bad_words, "Most bad words", "N", 0, 1 << 16);
  add("--max-priority", &limits->max_priority,
      "Priorities that a request may have: from minus this to this; 0: all are equal", "N", 0,
      kMany);
  const auto add_time = [serve](const char* name, double* seconds, const char* help) {
    serve->add_option(name, *seconds, help)
        ->capture_default_str()
        ->check(CLI::Range(0.0, 1e9))
        ->type_name("SECONDS")
        ->group("Limits of a request");
  };
  add_time("--default-timeout", &flags->default_timeout_seconds,
           "Time limit of a request that comes without a deadline; 0: none");
  add_time("--max-timeout", &flags->max_timeout_seconds,
           "Time limit of every request, whatever its deadline; 0: none");
  add("--max-stream-buffer-kib", &flags->max_stream_buffer_kib,
      "What may wait of a call's answers for a client that reads slowly, in KiB; four times as "
      "much "
      "ends the call",
      "KIB", 1, 1 << 20);
  add_time("--slow-reader-timeout", &flags->slow_reader_seconds,
           "Seconds for which more than --max-stream-buffer-kib may wait before the call is ended "
           "with RESOURCE_EXHAUSTED; 0: no limit");
}

absl::Duration TimeLimit(double seconds) {
  return seconds > 0 ? absl::Seconds(seconds) : absl::InfiniteDuration();
}

}  // namespace

Command AddServe(CLI::App* app) {
  const auto flags = std::make_shared<ServeFlags>();
  ServeOptions& options = flags->options;
  CLI::App* serve = app->add_subcommand(
      "serve",
      "Serve a model over gRPC (penstock.v1.Inference, health, reflection) until SIGTERM or "
      "Ctrl-C, then let running answers finish");
  serve->footer(
      "Example:\n"
      "  penstock serve --model SmolLM2-135M-Instruct.Q4_1.gguf --listen 127.0.0.1:50051");
  serve
      ->add_option("--model", options.runtime.stage.model,
                   "The model: a .gguf file, a Hugging Face folder or dummy:NAME")
      ->required()
      ->type_name("MODEL");
  serve
      ->add_option("--listen", options.listen,
                   "Where to listen; 0.0.0.0 takes calls from other machines, port 0 a free port")
      ->capture_default_str()
      ->type_name("HOST:PORT");
  flags->precision.Add(serve);
  flags->runtime.Add(serve, &options.runtime);
  flags->runtime.AddChatTemplate(serve, &options.runtime);
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
      ->add_option("--max-message-bytes", options.max_message_bytes,
                   "Largest request taken, in bytes")
      ->capture_default_str()
      ->check(CLI::Range(1024, 1 << 30))
      ->type_name("BYTES");
  serve
      ->add_option("--drain-timeout", flags->drain_seconds,
                   "After the first signal: seconds that running answers may still take. A second "
                   "signal ends at once")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("SECONDS");
  serve
      ->add_option("--port-file", options.port_file,
                   "Once ready, write the port to this file (for scripts that use port 0)")
      ->type_name("FILE");
  AddRequestLimits(serve, &options.runtime.limits, flags.get());
  AddMonitoring(serve, &options.monitoring, &flags->trace_max_mib);
  AddStageFlags(serve, &options.stages);
  AddPipelineFlags(serve, &options.runtime);
  serve->add_flag("!--no-startup-check", options.startup_check,
                  "Get ready without the check that the model answers the same by every path, and "
                  "without the check file");
  serve->add_flag("--verify-weights", options.verify_weights,
                  "Refuse to get ready without a check file (MODEL.check.json, made by penstock "
                  "inspect --write-check); if it is there it is always compared");
  return {serve, [flags] {
            if (!flags->precision.Check()) return kUsageError;
            ServeOptions& options = flags->options;
            flags->runtime.Apply(&options.runtime);
            flags->precision.Apply(&options.runtime);
            options.monitoring.trace_max_bytes = flags->trace_max_mib << 20;
            options.drain_timeout = absl::Seconds(flags->drain_seconds);
            options.runtime.limits.default_timeout = TimeLimit(flags->default_timeout_seconds);
            options.runtime.limits.max_timeout = TimeLimit(flags->max_timeout_seconds);
            options.runtime.limits.max_stream_buffer_bytes = flags->max_stream_buffer_kib << 10;
            options.runtime.limits.slow_reader_timeout = TimeLimit(flags->slow_reader_seconds);
            return RunServe(options);
          }};
}

}  // namespace penstock
