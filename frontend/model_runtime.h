// ModelRuntime: one model, loaded and running behind an engine: tokenizer, the stages' connections,
// coordinator, engine loop. One stage inside this process or many elsewhere are the same to it. The
// services ask it; it knows none of them.
// Thread rule: const methods and engine() from any thread. Whoever may still call must be gone
// before it is destroyed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/sched/stage_types.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"
#include "frontend/engine_loop.h"
#include "frontend/pipeline_coordinator.h"
#include "frontend/request_validator.h"
#include "worker/stage.h"

namespace penstock {

struct RuntimeOptions {
  StageOptions stage;        // of every stage; its place in the pipeline is set here
  EngineOptions engine;      // its limits of a step are taken from `stage`
  PipelineOptions pipeline;  // its stage and layers are set here
  ChatTemplateOptions chat;
  RequestLimits limits;  // its model, vocabulary and context are the loaded model's
  // Called now and then while the model loads, on the thread that loads.
  PipelineCoordinator::ProgressCallback progress = [](const LoadProgress&) {};

  int64_t num_stages = 1;
  std::vector<int64_t> split = {};  // layers of each stage; empty: as the cost model has it
  int64_t plans_ahead = 0;          // in flight at most; 0: two a stage
  // What rows go by between stages: grpc, peer, nccl or auto (frontend/row_transport.h).
  std::string transport = "auto";
  // With rows by peer memory: kernels wait for kernels (StageOptions::device_mail).
  bool spin = true;
  bool stages_are_elsewhere = false;  // they were not started by this program
  // Who starts or reaches the stages; none: the one stage runs inside this process.
  std::function<absl::StatusOr<std::unique_ptr<StageProvider>>()> make_stages = nullptr;
  EngineObserver* observer = nullptr;  // outlives the runtime

  std::string flight_recorder_dir = {};  // where epochs that end badly are written; empty: nowhere
  int64_t flight_recorder_plans = 1024;  // of an epoch, the last ones
};

class ModelRuntime {
 public:
  // Loads the model file. Blocks until it is ready to generate.
  // Errors: those of the file, its tokenizer, its settings and the stages, with what to do.
  static absl::StatusOr<std::unique_ptr<ModelRuntime>> Load(const RuntimeOptions& options);

  // The same with a tokenizer and a single stage of the caller's.
  static absl::StatusOr<std::unique_ptr<ModelRuntime>> Start(
      const RuntimeOptions& options, std::unique_ptr<Tokenizer> tokenizer,
      std::unique_ptr<StageExecutor> executor,
      absl::StatusOr<ChatTemplate> chat_template =
          absl::FailedPreconditionError("it was started without a chat template"));

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  // Or why there is none: that is no error of the model's, but of a request with a chat.
  const absl::StatusOr<ChatTemplate>& chat_template() const { return chat_template_; }
  // Of the whole pipeline, and of its stages.
  const StageInfo& info() const { return coordinator_->info(); }
  const std::vector<StageInfo>& stages() const { return coordinator_->stages(); }
  const RequestLimits& limits() const { return limits_; }
  // As the stages were told to compute.
  const std::string& device() const { return device_; }
  DataType precision() const { return precision_; }
  EngineLoop& engine() { return *engine_; }
  const EngineLoop& engine() const { return *engine_; }

 private:
  ModelRuntime(std::unique_ptr<Tokenizer> tokenizer, absl::StatusOr<ChatTemplate> chat_template);
  // `layers` and `cost`: an entry a stage.
  absl::Status StartEngine(const RuntimeOptions& options, std::unique_ptr<StageProvider> provider,
                           std::vector<LayerRange> layers, PipelineCost cost);

  const std::unique_ptr<Tokenizer> tokenizer_;
  const absl::StatusOr<ChatTemplate> chat_template_;
  RequestLimits limits_;
  std::string device_;
  DataType precision_ = DataType::kF32;

  // The second uses the first.
  std::unique_ptr<PipelineCoordinator> coordinator_;
  std::unique_ptr<EngineLoop> engine_;
};

// What the model is called towards clients: its own name as valid UTF-8, or else its file's.
std::string ServedName(const ModelConfig& config, const std::string& path);

}  // namespace penstock
