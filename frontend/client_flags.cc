#include <cstdio>

#include "frontend/chat_command.h"
#include "frontend/command_flags.h"
#include "frontend/generate_command.h"

namespace penstock {
namespace {

struct GenerateFlags {
  GenerateOptions options;
  RuntimeFlags runtime;
  PrecisionFlag precision;
  SamplingFlags sampling;
  std::string prompt_ids;
};

struct ChatFlags {
  ChatOptions options;
  RuntimeFlags runtime;
  PrecisionFlag precision;
  SamplingFlags sampling;
};

}  // namespace

Command AddGenerate(CLI::App* app) {
  const auto flags = std::make_shared<GenerateFlags>();
  GenerateOptions& options = flags->options;
  CLI::App* generate = app->add_subcommand(
      "generate", "Generate an answer and print it as it comes; figures go to standard error");
  generate->footer(
      "Examples:\n"
      "  penstock generate --server 127.0.0.1:50051 --prompt 'The capital of France is' "
      "--max-tokens 16 --temperature 0\n"
      "  penstock generate --model SmolLM2-135M-Instruct.Q4_1.gguf --prompt-ids 504,3575,282 "
      "--json");
  AddModelAddress(generate, &options.model);
  CLI::Option_group* prompt = generate->add_option_group("Prompt", "One of:");
  prompt->add_option("--prompt", options.prompt, "The text to go on from")->type_name("TEXT");
  CLI::Option* ids =
      prompt->add_option("--prompt-ids", flags->prompt_ids, "The same as token ids, as in 1,2,3")
          ->type_name("IDS");
  prompt->require_option(1);
  generate->add_flag("--special", options.special,
                     "Read names of control tokens in the text, such as <|im_start|>, as those "
                     "tokens; without it they are ordinary text");
  flags->sampling.Add(generate, &options.sampling);
  flags->sampling.AddForScripts(generate, &options.sampling);
  generate
      ->add_option("--priority", options.priority,
                   "Requests of a higher priority come first; the server bounds it")
      ->capture_default_str()
      ->type_name("N");
  generate
      ->add_option("--tenant", options.tenant,
                   "For whom this is: the server shares its time fairly between tenants")
      ->type_name("TEXT");
  const auto timeout = AddTimeout(generate, "Give up after this time (default: never)");
  flags->precision.Add(generate);
  generate->add_flag("--json", options.json,
                     "Print one JSON object at the end: prompt_ids, ids (the end token included), "
                     "text, finish_reason, logprobs (natural log, one an id); stop_text or stop_id "
                     "that ended it; with --n above 1 these under choices");
  flags->runtime.Add(generate, &options.model.runtime);
  return {generate, [generate, flags, ids, timeout] {
            GenerateOptions& options = flags->options;
            if (!flags->precision.Check() || !flags->sampling.Apply(&options.sampling)) {
              return kUsageError;
            }
            flags->runtime.Apply(&options.model.runtime);
            flags->precision.Apply(&options.model.runtime);
            // As many as the answers that it may give at once.
            options.model.runtime.stage.max_sequences =
                std::clamp(options.sampling.n.value_or(1), 1, options.model.runtime.limits.max_n);
            options.timeout = timeout();
            if (generate->count("--precision") > 0) options.precision = flags->precision.value();
            if (ids->count() > 0) {
              absl::StatusOr<std::vector<int32_t>> parsed = ParseTokenIds(flags->prompt_ids);
              if (!parsed.ok()) {
                fprintf(stderr, "--prompt-ids: %s\n", Message(parsed.status()).c_str());
                return kUsageError;
              }
              options.prompt_ids = std::move(*parsed);
            }
            return RunGenerate(options);
          }};
}

Command AddChat(CLI::App* app) {
  const auto flags = std::make_shared<ChatFlags>();
  ChatOptions& options = flags->options;
  CLI::App* chat = app->add_subcommand(
      "chat",
      "Talk with a model on the terminal; without one each line of standard input is a message");
  chat->footer(
      "Examples:\n"
      "  penstock chat --model SmolLM2-135M-Instruct.Q4_1.gguf\n"
      "  echo 'What is the capital of France?' | penstock chat --server 127.0.0.1:50051 "
      "--temperature 0");
  AddModelAddress(chat, &options.model);
  chat->add_option("--system", options.system,
                   "The system message (default: what the model's template says)")
      ->type_name("TEXT");
  flags->sampling.Add(chat, &options.sampling);
  const auto timeout = AddTimeout(chat, "Give an answer up after this time (default: never)");
  flags->precision.Add(chat);
  flags->runtime.Add(chat, &options.model.runtime);
  flags->runtime.AddChatTemplate(chat, &options.model.runtime);
  return {chat, [flags, timeout] {
            ChatOptions& options = flags->options;
            if (!flags->precision.Check() || !flags->sampling.Apply(&options.sampling)) {
              return kUsageError;
            }
            flags->runtime.Apply(&options.model.runtime);
            flags->precision.Apply(&options.model.runtime);
            options.model.runtime.stage.max_sequences = 1;
            options.timeout = timeout();
            return RunChat(options);
          }};
}

}  // namespace penstock
