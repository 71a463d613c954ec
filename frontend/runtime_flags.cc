#include <cstdio>

#include "frontend/command_flags.h"

namespace penstock {
namespace {

constexpr int64_t kMib = 1 << 20;

bool NotAvailable(const char* what, const char* instead) {
  fprintf(stderr, "penstock: %s is not available yet: %s\n", what, instead);
  return false;
}

}  // namespace

void RuntimeFlags::Add(CLI::App* app, RuntimeOptions* options) {
  app->add_option("--kv-memory-mib", kv_memory_mib_,
                  "Memory for the keys and values of running requests, of each stage, in MiB; a "
                  "token of a 135M model takes 45 KiB. 0: 1024 on the CPU, on a GPU nine tenths of "
                  "what weights and workspace leave free")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->type_name("MIB");
  app->add_option("--prefill-attention", prefill_attention_,
                  "flash: no scores in memory; padded: the plain path of padded rows and whole "
                  "scores, slower, for comparison")
      ->capture_default_str()
      ->check(CLI::IsMember({"flash", "padded"}));
  app->add_option("--padded-memory-mib", padded_memory_mib_,
                  "Workspace that --prefill-attention padded may take, in MiB")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->type_name("MIB");
  app->add_option("--device", options->stage.device,
                  "Where the model runs: cpu, or cuda:N with the ordinal of a GPU (in a build with "
                  "CUDA). With several stages one for all, or one each (cuda:0,cuda:1), or cuda: "
                  "the GPUs in order, one a stage")
      ->capture_default_str()
      ->type_name("DEVICE");
  app->add_flag(
      "--no-graphs", no_graphs_,
      "Launch a GPU's kernels one by one, not a step of decodes as one graph: slower, with "
      "the same answers, for debuggers");
  app->add_flag("--invariant", options->stage.invariant,
                "On a GPU, fix every order of summation: a token and its log-probability have the "
                "same bits whatever else is in the batch, however the prompt is cut into chunks, "
                "after a prefix hit, a preemption or a dead stage. For bf16 and f16. The CPU is "
                "always so");
  AddGemmTable(app, &options->stage.gemm_table);
  app->add_flag("--guard-memory", options->stage.guard_memory,
                "Put red zones around each block of a GPU's memory, each a cudaMalloc of its own: "
                "for compute-sanitizer, and to find who writes beside a block");
  app->add_option("--threads", options->stage.threads, "Threads that compute; 0: one a core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
}

void AddGemmTable(CLI::App* app, std::string* file) {
  app->add_option("--gemm-table", *file,
                  "Algorithms of a GPU's matrix products, as penstock tune has measured them; "
                  "none: the library's own choice (default: penstock/gemm-GPU.json in the user's "
                  "cache folder, if it is there)")
      ->type_name("FILE");
}

void RuntimeFlags::AddChatTemplate(CLI::App* app, RuntimeOptions* options) {
  std::string names;
  for (const ChatLayout& layout : ChatLayouts()) {
    names += (names.empty() ? "" : ", ") + std::string(layout.name);
  }
  app->add_option("--chat-template", options->chat.layout,
                  "How chats are laid out, whatever template the model has (default: that one, if "
                  "it is known): " +
                      names)
      ->type_name("NAME");
  app->add_option("--chat-date", options->chat.date,
                  "What Llama 3.1 and later are told as today's date in a chat; fixed, so that "
                  "answers stay the same")
      ->capture_default_str()
      ->type_name("TEXT");
}

void RuntimeFlags::Apply(RuntimeOptions* options) const {
  StageOptions& stage = options->stage;
  stage.kv_memory_bytes = kv_memory_mib_ * kMib;
  stage.padded_memory_bytes = padded_memory_mib_ * kMib;
  stage.graphs = !no_graphs_;
  stage.prefill_attention =
      prefill_attention_ == "padded" ? PrefillAttention::kPadded : PrefillAttention::kFlash;
}

void PrecisionFlag::Add(CLI::App* app) {
  app->add_option("--precision", precision_,
                  "Of activations, keys and values: f32, exact (default); bf16 or f16, on a GPU, "
                  "whose weights have it too; fast: not available yet")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "fast"}));
}

void PrecisionFlag::Apply(RuntimeOptions* options) const {
  options->stage.precision = PrecisionByName(precision_).value_or(DataType::kF32);
}

bool PrecisionFlag::Check() const {
  if (precision_ == "fast") {
    return NotAvailable("--precision fast", "leave it out, or use --precision f32");
  }
  return true;
}

void AddModelAddress(CLI::App* app, ModelAddress* address) {
  CLI::Option_group* source = app->add_option_group("Source", "One of:");
  source->add_option("--server", address->server, "A running `penstock serve`")
      ->type_name("HOST:PORT");
  source
      ->add_option("--model", address->runtime.stage.model,
                   "A .gguf file or a Hugging Face folder, loaded into this process; no port is "
                   "opened")
      ->type_name("MODEL");
  source->require_option(1);
}

std::function<absl::Duration()> AddTimeout(CLI::App* app, const std::string& what) {
  const auto seconds = std::make_shared<double>(0);
  CLI::Option* option = app->add_option("--timeout", *seconds, what)
                            ->check(CLI::Range(1e-3, 1e9))
                            ->type_name("SECONDS");
  return [seconds, option] {
    return option->count() > 0 ? absl::Seconds(*seconds) : absl::InfiniteDuration();
  };
}

}  // namespace penstock
