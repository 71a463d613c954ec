#include "frontend/model_runtime.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/base/kv_block.h"
#include "core/base/utf8.h"
#include "core/io/model_file.h"
#include "frontend/worker_link.h"

namespace penstock {

absl::StatusOr<std::unique_ptr<ModelRuntime>> ModelRuntime::Load(const RuntimeOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(ModelTokenizer file, OpenTokenizer(options.stage.model));
  absl::StatusOr<ChatTemplate> chat = ChatTemplate::Make(file.spec, options.chat);
  // One that was asked for by name has to fit.
  if (!options.chat.layout.empty()) PENSTOCK_RETURN_IF_ERROR(chat.status());
  PENSTOCK_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                            MakeTokenizer(std::move(file.spec)));
  return Start(options, std::move(tokenizer), MakeCpuStage(), std::move(chat));
}

absl::StatusOr<std::unique_ptr<ModelRuntime>> ModelRuntime::Start(
    const RuntimeOptions& options, std::unique_ptr<Tokenizer> tokenizer,
    std::unique_ptr<StageExecutor> executor, absl::StatusOr<ChatTemplate> chat_template) {
  std::unique_ptr<ModelRuntime> runtime(
      new ModelRuntime(std::move(tokenizer), std::move(executor), std::move(chat_template)));
  PENSTOCK_RETURN_IF_ERROR(runtime->StartEngine(options));
  return runtime;
}

ModelRuntime::ModelRuntime(std::unique_ptr<Tokenizer> tokenizer,
                           std::unique_ptr<StageExecutor> executor,
                           absl::StatusOr<ChatTemplate> chat_template)
    : tokenizer_(std::move(tokenizer)),
      chat_template_(std::move(chat_template)),
      worker_(std::move(executor)),
      coordinator_(std::make_unique<WorkerLink>(worker_.channel())) {}

absl::Status ModelRuntime::StartEngine(const RuntimeOptions& options) {
  EngineOptions engine = options.engine;
  engine.max_step_tokens = options.stage.max_step_tokens;
  engine.max_sequences = options.stage.max_sequences;
  PENSTOCK_RETURN_IF_ERROR(Validate(engine));
  PENSTOCK_ASSIGN_OR_RETURN(info_, coordinator_.Load(options.stage, options.progress));
  // A sampled id must have a text, and an id from a client a row of the embedding table.
  if (info_.config.vocab_size != tokenizer_->vocab_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.stage.model, ": the model has ", info_.config.vocab_size,
                     " rows of embeddings and the tokenizer ", tokenizer_->vocab_size(),
                     " tokens: the file does not fit together; convert the model again"));
  }
  limits_ = options.limits;
  limits_.model = ServedName(info_.config, options.stage.model);
  limits_.vocab_size = info_.config.vocab_size;
  limits_.context_length = std::min(info_.config.context_length, info_.num_blocks * kBlockSize);
  engine_ = std::make_unique<EngineLoop>(std::move(engine), info_, coordinator_);
  return absl::OkStatus();
}

std::string ServedName(const ModelConfig& config, const std::string& path) {
  std::string bytes = config.name;
  if (bytes.empty()) bytes = std::filesystem::path(path).stem().string();
  std::string name;
  for (std::string_view rest = bytes; !rest.empty();) {
    const Utf8Step step = NextUtf8(rest);
    const auto length = static_cast<size_t>(step.length);
    name.append(step.kind == Utf8Step::Kind::kCharacter ? rest.substr(0, length)
                                                        : kReplacementCharacter);
    rest.remove_prefix(length);
  }
  return name;
}

}  // namespace penstock
