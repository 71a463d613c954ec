#include "frontend/command_flags.h"
#include "frontend/tune_command.h"

namespace penstock {
namespace {

struct TuneFlags {
  TuneOptions options;
  PrecisionFlag precision;
};

}  // namespace

Command AddTune(CLI::App* app) {
  const auto flags = std::make_shared<TuneFlags>();
  TuneOptions& options = flags->options;
  options.tuning.device = "cuda:0";
  CLI::App* tune = app->add_subcommand(
      "tune",
      "Measure which algorithms of the GPU's library are fastest for a model's matrix products, "
      "and "
      "write a table that serve, generate, chat, bench model and workers use; once for each GPU, "
      "library version and model, while nothing else runs on the GPU");
  tune->footer(
      "Example:\n"
      "  penstock tune --model dummy:llama-2-7b --device cuda:0 --precision bf16");
  tune->add_option("--model", options.model,
                   "The model: a .gguf file, a Hugging Face folder or dummy:NAME; its weights are "
                   "not read")
      ->required()
      ->type_name("MODEL");
  tune->add_option("--device", options.tuning.device, "cuda:N with the ordinal of a GPU")
      ->capture_default_str()
      ->type_name("DEVICE");
  flags->precision.Add(tune);
  const auto count = [tune](const char* name, int64_t* value, const char* help) {
    tune->add_option(name, *value, help)
        ->capture_default_str()
        ->check(CLI::Range(1, 1 << 16))
        ->type_name("N");
  };
  count("--max-step-tokens", &options.tuning.max_step_tokens,
        "Steps have so many tokens at most, as serve's flag says");
  count("--max-sequences", &options.tuning.max_sequences,
        "So many requests run at once at most, as serve's flag says");
  AddGemmTable(tune, &options.gemm_table);
  return {tune, [flags] {
            if (!flags->precision.Check()) return kUsageError;
            flags->options.tuning.precision =
                PrecisionByName(flags->precision.value()).value_or(DataType::kF32);
            return RunTune(flags->options);
          }};
}

}  // namespace penstock
