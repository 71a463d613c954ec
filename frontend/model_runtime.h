// ModelRuntime: one model, loaded and running behind an engine: tokenizer, embedded worker,
// coordinator, engine loop. The services ask it; it knows none of them.
// Thread rule: const methods and engine() from any thread. Whoever may still call must be gone
// before it is destroyed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/base/status.h"
#include "core/sched/stage_types.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"
#include "frontend/embedded_worker.h"
#include "frontend/engine_loop.h"
#include "frontend/pipeline_coordinator.h"
#include "frontend/request_validator.h"
#include "worker/stage.h"

namespace penstock {

struct RuntimeOptions {
  StageOptions stage;
  EngineOptions engine;  // its max_step_tokens and max_sequences are taken from `stage`
  ChatTemplateOptions chat;
  RequestLimits limits;  // its model, vocabulary and context are the loaded model's
  // Called now and then while the model loads, on a thread of the stage link's.
  StageLink::ProgressCallback progress = [](const LoadProgress&) {};
};

class ModelRuntime {
 public:
  // Loads the model file on the CPU backend. Blocks until it is ready to generate.
  // Errors: those of the file, its tokenizer and its settings, with what to do.
  static absl::StatusOr<std::unique_ptr<ModelRuntime>> Load(const RuntimeOptions& options);

  // The same with a tokenizer and a stage of the caller's.
  static absl::StatusOr<std::unique_ptr<ModelRuntime>> Start(
      const RuntimeOptions& options, std::unique_ptr<Tokenizer> tokenizer,
      std::unique_ptr<StageExecutor> executor,
      absl::StatusOr<ChatTemplate> chat_template =
          absl::FailedPreconditionError("it was started without a chat template"));

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  // Or why there is none: that is no error of the model's, but of a request with a chat.
  const absl::StatusOr<ChatTemplate>& chat_template() const { return chat_template_; }
  const StageInfo& info() const { return info_; }
  const RequestLimits& limits() const { return limits_; }
  EngineLoop& engine() { return *engine_; }
  const EngineLoop& engine() const { return *engine_; }

 private:
  ModelRuntime(std::unique_ptr<Tokenizer> tokenizer, std::unique_ptr<StageExecutor> executor,
               absl::StatusOr<ChatTemplate> chat_template);
  absl::Status StartEngine(const RuntimeOptions& options);

  const std::unique_ptr<Tokenizer> tokenizer_;
  const absl::StatusOr<ChatTemplate> chat_template_;
  StageInfo info_;
  RequestLimits limits_;

  // Each is used by the next.
  EmbeddedWorker worker_;
  PipelineCoordinator coordinator_;
  std::unique_ptr<EngineLoop> engine_;
};

// What the model is called towards clients: its own name as valid UTF-8, or else its file's.
std::string ServedName(const ModelConfig& config, const std::string& path);

}  // namespace penstock
