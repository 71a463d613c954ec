#include "frontend/model_runtime.h"

#include <algorithm>
#include <filesystem>
#include <random>
#include <utility>

#include "core/base/kv_block.h"
#include "core/base/utf8.h"
#include "core/io/model_bytes.h"
#include "core/io/model_file.h"
#include "core/io/model_hash.h"
#include "core/sched/layer_split.h"
#include "frontend/embedded_worker.h"
#include "frontend/flight_file.h"
#include "frontend/row_transport.h"
#include "worker/backends.h"

namespace penstock {
namespace {

struct Stages {
  std::vector<LayerRange> layers;
  std::vector<StageCost> costs;
  uint64_t model_hash = 0;
  int64_t hidden_size = 0;
};

absl::StatusOr<Stages> ShareOut(const RuntimeOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(const ModelFile file, OpenModel(options.stage.model));
  PENSTOCK_ASSIGN_OR_RETURN(const ModelBytes bytes, MeasureModel(file));
  SplitOptions split;
  split.num_stages = options.num_stages;
  split.layers = options.split;
  if (options.stage.device != "cpu") split.rates = kGpuRates;
  PENSTOCK_ASSIGN_OR_RETURN(const LayerSplit shares, SplitLayers(file.config, bytes, split));
  Stages stages;
  stages.model_hash = ModelHash(file.config, *file.weights);
  stages.hidden_size = file.config.hidden_size;
  for (const StageSplit& stage : shares.stages) {
    stages.layers.push_back(stage.layers);
    stages.costs.emplace_back(stage.work, split.rates);
  }
  return stages;
}

// A stage inside this process cannot be killed, so it is no use to find out that it hangs.
RuntimeOptions WithoutLimits(const RuntimeOptions& options) {
  RuntimeOptions result = options;
  result.pipeline.min_plan_limit = absl::InfiniteDuration();
  result.pipeline.hang_limit = absl::InfiniteDuration();
  return result;
}

uint64_t Secret() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRuntime>> ModelRuntime::Load(const RuntimeOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(ModelTokenizer file, OpenTokenizer(options.stage.model));
  absl::StatusOr<ChatTemplate> chat = ChatTemplate::Make(file.spec, options.chat);
  // One that was asked for by name has to fit.
  if (!options.chat.layout.empty()) PENSTOCK_RETURN_IF_ERROR(chat.status());
  PENSTOCK_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                            MakeTokenizer(std::move(file.spec)));
  PENSTOCK_ASSIGN_OR_RETURN(Stages stages, ShareOut(options));
  std::unique_ptr<StageProvider> provider;
  if (options.make_stages) {
    PENSTOCK_ASSIGN_OR_RETURN(provider, options.make_stages());
  } else if (options.num_stages == 1) {
    provider = std::make_unique<EmbeddedWorker>(MakeModelStage);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat(options.num_stages, " stages need workers: start them with --stages or name ",
                     "them with --workers"));
  }
  RuntimeOptions with_hash = options.make_stages ? options : WithoutLimits(options);
  with_hash.stage.model_hash = stages.model_hash;
  if (options.num_stages > 1) {
    RowTransportOptions rows;
    rows.transport = options.transport;
    rows.are_elsewhere = options.stages_are_elsewhere;
    PENSTOCK_ASSIGN_OR_RETURN(rows.devices, StageDevices(options.stage.device, options.num_stages));
    rows.max_step_tokens = options.stage.max_step_tokens;
    rows.hidden_size = stages.hidden_size;
    PENSTOCK_ASSIGN_OR_RETURN(const RowTransport chosen, ChooseRowTransport(rows));
    with_hash.stage.mailbox_bytes = chosen.mailbox_bytes;
    with_hash.stage.device_mail = chosen.mailbox_bytes > 0 && options.spin;
    with_hash.stage.nccl = chosen.nccl;
  }
  std::unique_ptr<ModelRuntime> runtime(new ModelRuntime(std::move(tokenizer), std::move(chat)));
  PENSTOCK_RETURN_IF_ERROR(runtime->StartEngine(with_hash, std::move(provider),
                                                std::move(stages.layers),
                                                PipelineCost(std::move(stages.costs))));
  return runtime;
}

absl::StatusOr<std::unique_ptr<ModelRuntime>> ModelRuntime::Start(
    const RuntimeOptions& options, std::unique_ptr<Tokenizer> tokenizer,
    std::unique_ptr<StageExecutor> executor, absl::StatusOr<ChatTemplate> chat_template) {
  std::unique_ptr<ModelRuntime> runtime(
      new ModelRuntime(std::move(tokenizer), std::move(chat_template)));
  PENSTOCK_RETURN_IF_ERROR(runtime->StartEngine(
      WithoutLimits(options), std::make_unique<EmbeddedWorker>(std::move(executor)), {LayerRange{}},
      PipelineCost({StageCost(StageWork(), MachineRates())})));
  return runtime;
}

ModelRuntime::ModelRuntime(std::unique_ptr<Tokenizer> tokenizer,
                           absl::StatusOr<ChatTemplate> chat_template)
    : tokenizer_(std::move(tokenizer)), chat_template_(std::move(chat_template)) {}

absl::Status ModelRuntime::StartEngine(const RuntimeOptions& options,
                                       std::unique_ptr<StageProvider> provider,
                                       std::vector<LayerRange> layers, PipelineCost cost) {
  const auto num_stages = static_cast<int64_t>(layers.size());
  EngineOptions engine = options.engine;
  engine.max_step_tokens = options.stage.max_step_tokens;
  engine.max_sequences = options.stage.max_sequences;
  engine.plans_ahead = options.plans_ahead > 0 ? options.plans_ahead : 2 * num_stages;
  for (uint64_t& half : engine.cache_key) half = Secret();
  PENSTOCK_RETURN_IF_ERROR(Validate(engine));

  PipelineOptions pipeline = options.pipeline;
  pipeline.stage = options.stage;
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<std::string> devices,
                            StageDevices(options.stage.device, num_stages));
  pipeline.devices = devices;
  pipeline.stage.plans_ahead = static_cast<int32_t>(engine.plans_ahead);
  pipeline.layers = std::move(layers);
  coordinator_ = std::make_unique<PipelineCoordinator>(std::move(provider), std::move(pipeline),
                                                       options.observer);
  coordinator_->SetProgress(options.progress);
  if (!options.flight_recorder_dir.empty()) {
    coordinator_->SetFlightRecorder(std::make_unique<FlightRecorder>(
        options.flight_recorder_plans, MakeFlightWriter(options.flight_recorder_dir)));
  }
  coordinator_->Start(engine.now());
  while (true) {
    const absl::Time now = engine.now();
    coordinator_->Advance(now);
    if (coordinator_->state() != PipelineState::kLoading) break;
    coordinator_->wakeup()->Wait(coordinator_->NextTime(now) - now);
  }
  coordinator_->SetProgress([](const LoadProgress&) {});
  if (coordinator_->state() == PipelineState::kFailed) return coordinator_->status();

  // A sampled id must have a text, and an id from a client a row of the embedding table.
  if (info().config.vocab_size != tokenizer_->vocab_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.stage.model, ": the model has ", info().config.vocab_size,
                     " rows of embeddings and the tokenizer ", tokenizer_->vocab_size(),
                     " tokens: the file does not fit together; convert the model again"));
  }
  const bool is_one =
      std::all_of(devices.begin(), devices.end(),
                  [&devices](const std::string& device) { return device == devices[0]; });
  device_ = is_one ? devices[0] : options.stage.device;
  precision_ = options.stage.precision;
  limits_ = options.limits;
  limits_.model = ServedName(info().config, options.stage.model);
  limits_.vocab_size = info().config.vocab_size;
  limits_.context_length = std::min(info().config.context_length, info().num_blocks * kBlockSize);
  engine_ = std::make_unique<EngineLoop>(std::move(engine), std::move(cost), *coordinator_,
                                         options.observer);
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
