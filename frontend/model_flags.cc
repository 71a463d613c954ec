#include "frontend/command_flags.h"
#include "frontend/inspect_command.h"
#include "frontend/tokenize_command.h"

namespace penstock {

Command AddTokenize(CLI::App* app) {
  const auto options = std::make_shared<TokenizeOptions>();
  const auto json = std::make_shared<bool>(false);  // required, for another format may come
  CLI::App* tokenize = app->add_subcommand(
      "tokenize",
      "Read JSON strings from standard input, one a line, and print the token ids of each as a "
      "JSON array");
  tokenize->footer(
      "Example:\n"
      "  echo '\"Hello world\"' | penstock tokenize --model SmolLM2-135M-Instruct.Q4_1.gguf "
      "--json");
  tokenize
      ->add_option("--model", options->model,
                   "The model: a .gguf file, a Hugging Face folder or dummy:NAME")
      ->required()
      ->type_name("MODEL");
  tokenize->add_flag("--special", options->special,
                     "Read names of control tokens, such as <|im_start|>, as those tokens");
  tokenize->add_flag("--json", *json, "JSON in and out: the only format so far")->required();
  return {tokenize, [options, json] { return RunTokenize(*options); }};
}

Command AddInspect(CLI::App* app) {
  const auto options = std::make_shared<InspectOptions>();
  const auto kv_memory_mib = std::make_shared<int64_t>(1024);
  const auto stage_memory_mib = std::make_shared<int64_t>(0);
  CLI::App* inspect = app->add_subcommand(
      "inspect", "Tell what a model is, how it is quantized and how much memory it needs");
  inspect->footer(
      "Examples:\n"
      "  penstock inspect SmolLM2-135M-Instruct.Q4_1.gguf --max-sequences 8 --context 2048\n"
      "  penstock inspect SmolLM2-135M-Instruct.Q4_1.gguf --stages 3\n"
      "  penstock inspect SmolLM2-135M-Instruct.Q4_1.gguf --write-check");
  inspect->add_option("model", options->model, "A .gguf file or a Hugging Face folder")
      ->required()
      ->type_name("MODEL");
  inspect
      ->add_option("--max-sequences", options->max_sequences,
                   "Tell the memory for so many requests at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16))
      ->type_name("N");
  inspect
      ->add_option("--context", options->context,
                   "of so many tokens each, prompt and answer (default: what the model can)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->type_name("N");
  inspect
      ->add_option("--max-step-tokens", options->max_step_tokens, "and for steps of so many tokens")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16))
      ->type_name("N");
  inspect
      ->add_option("--stages", options->stages,
                   "Tell how the layers are shared out over so many stages, and what each takes")
      ->check(CLI::Range(1, 1 << 16))
      ->type_name("N");
  inspect
      ->add_option("--split", options->split,
                   "The layers of each stage, such as 10,12,8 (default: the split that is fastest)")
      ->type_name("LIST");
  inspect
      ->add_option("--kv-memory-mib", *kv_memory_mib,
                   "Memory of each stage for keys and values, in MiB")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->type_name("N");
  inspect
      ->add_option("--stage-memory-mib", *stage_memory_mib,
                   "Memory of each stage for all it holds, in MiB, which no stage may exceed "
                   "(default: unknown)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->type_name("N");
  inspect->add_flag("--tensors", options->tensors, "List all tensors, with types and shapes");
  inspect->add_flag("--json", options->json, "Print one JSON object");
  inspect->add_flag("--write-check", options->write_check,
                    "Write MODEL.check.json: a hash of each tensor and an answer, which penstock "
                    "serve compares before it is ready");
  inspect
      ->add_option("--threads", options->threads,
                   "Threads that compute the answer of --write-check; 0: one a core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
  return {inspect, [options, kv_memory_mib, stage_memory_mib] {
            options->kv_memory = *kv_memory_mib << 20;
            options->stage_memory = *stage_memory_mib << 20;
            return RunInspect(*options);
          }};
}

}  // namespace penstock
