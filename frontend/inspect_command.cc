#include "frontend/inspect_command.h"

#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "core/base/checked_size.h"
#include "core/io/check_file.h"
#include "core/io/dummy_model.h"
#include "core/io/model_bytes.h"
#include "core/io/model_file.h"
#include "core/model/kv_cache.h"
#include "core/model/model_limits.h"
#include "core/model/model_tensors.h"
#include "frontend/startup_check.h"

namespace penstock {
namespace {

constexpr int64_t kFloatBytes = 4;

// What Llama's forward pass works in: a few activations a token, the logits of each sequence.
int64_t WorkspaceBytes(const ModelConfig& config, const InspectOptions& options) {
  const int64_t token = 3 * config.hidden_size + config.head_dim + config.qkv_size() +
                        config.q_size() + 3 * config.intermediate_size;
  const int64_t sample = config.hidden_size + config.vocab_size;
  return (CheckedSize(token) * CheckedSize(options.max_step_tokens) +
          CheckedSize(sample) * CheckedSize(SampleRows(options.max_sequences)))
             .value()
             .value_or(INT64_MAX / kFloatBytes) *
         kFloatBytes;
}

// The weights of a model without a file are made when they are asked for: not for this.
absl::StatusOr<std::vector<InspectedTensor>> ListDummyTensors(const std::string& path) {
  PENSTOCK_ASSIGN_OR_RETURN(const DummyModel dummy,
                            FindDummyModel(std::string_view(path).substr(kDummyPrefix.size())));
  std::vector<InspectedTensor> tensors;
  for (const ModelTensor& each : ModelTensors(dummy.config)) {
    const DataType type = each.shape.rank() == 1 ? DataType::kF32 : dummy.type;
    PENSTOCK_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(type, each.shape));
    tensors.push_back({each.name, std::string(Name(type)), each.shape, bytes});
  }
  return tensors;
}

absl::StatusOr<std::vector<InspectedTensor>> ListTensors(const ModelFile& file,
                                                         const std::string& path) {
  if (path.starts_with(kDummyPrefix)) return ListDummyTensors(path);
  std::vector<InspectedTensor> tensors;
  for (const ModelTensor& each : ModelTensors(file.config)) {
    PENSTOCK_ASSIGN_OR_RETURN(const Tensor found, file.weights->Get(each.name, each.shape));
    tensors.push_back({each.name, std::string(Name(found.type())), each.shape, found.bytes()});
    file.weights->Forget(found);
  }
  return tensors;
}

std::string TokenizerKind(const TokenizerSpec& spec) {
  if (spec.tokens.empty()) return "none";
  return spec.model == "gpt2" ? absl::StrCat("byte-level BPE (", spec.pre_tokenizer, ")")
                              : absl::StrCat("sentencepiece (", spec.model, ")");
}

// A folder may have weights alone.
void InspectTokenizer(const std::string& path, ModelReport* report) {
  const absl::StatusOr<ModelTokenizer> file = OpenTokenizer(path);
  if (!file.ok()) {
    report->tokenizer = "none: " + Message(file.status());
    report->chat_template = "the model has no tokenizer";
    return;
  }
  report->tokenizer = TokenizerKind(file->spec);
  report->vocabulary = static_cast<int64_t>(file->spec.tokens.size());
  const absl::StatusOr<ChatTemplate> chat = ChatTemplate::Make(file->spec);
  report->knows_chat = chat.ok();
  report->chat_template = chat.ok() ? std::string(chat->layout()) : Message(chat.status());
}

absl::StatusOr<StagesReport> InspectStages(const InspectOptions& options, const ModelFile& file,
                                           int64_t workspace_bytes) {
  StagesReport report;
  SplitOptions& split = report.options;
  if (!options.split.empty()) {
    const auto layers = ParseLayerCounts(options.split);
    if (!layers.ok()) return Annotate(layers.status(), "--split");
    split.layers = *layers;
  }
  split.num_stages =
      options.stages > 0 ? options.stages : static_cast<int64_t>(split.layers.size());
  split.kv_memory = options.kv_memory;
  split.workspace = workspace_bytes;
  PENSTOCK_ASSIGN_OR_RETURN(const ModelBytes bytes, MeasureModel(file));
  // More stages than layers are told apart before memory is laid out for them.
  if (options.stage_memory > 0 && split.num_stages <= file.config.num_layers) {
    split.memory.assign(static_cast<size_t>(split.num_stages), options.stage_memory);
  }
  PENSTOCK_ASSIGN_OR_RETURN(report.split, SplitLayers(file.config, bytes, split));
  for (const int64_t batch : StagesReport::kBatches) {
    std::vector<int64_t>& times = report.step_ns.emplace_back();
    for (const StageSplit& stage : report.split.stages) {
      times.push_back(
          StageCost(stage.work, split.rates).PredictNs(DecodeShape(batch, batch * split.context)));
    }
  }
  return report;
}

absl::Status WriteCheck(const InspectOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(const ModelFile file, OpenModel(options.model));
  ModelCheck check;
  PENSTOCK_ASSIGN_OR_RETURN(check.tensors, HashTensors(*file.weights, file.config));
  RuntimeOptions runtime_options;
  runtime_options.stage.model = options.model;
  runtime_options.stage.kv_memory_bytes = KvCache::BlockBytes(file.config, file.config.num_layers);
  runtime_options.stage.max_sequences = 1;
  runtime_options.stage.threads = options.threads;
  PENSTOCK_ASSIGN_OR_RETURN(const std::unique_ptr<ModelRuntime> runtime,
                            ModelRuntime::Load(runtime_options));
  PENSTOCK_ASSIGN_OR_RETURN(const KnownAnswer known, GenerateKnownAnswer(*runtime));
  check.prompt_ids = known.prompt_ids;
  check.ids = known.ids;
  const std::string path = CheckFilePath(options.model);
  PENSTOCK_RETURN_IF_ERROR(WriteModelCheck(path, check));
  std::cerr << "wrote " << path << ": " << check.tensors.size()
            << " tensors' hashes and an answer of " << check.ids.size() << " tokens\n";
  return absl::OkStatus();
}

absl::Status Inspect(const InspectOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(const ModelReport report, InspectModel(options));
  std::cout << (options.json ? ReportToJson(report, options.tensors)
                             : ReportToText(report, options.tensors))
            << std::flush;
  if (!std::cout) return absl::UnavailableError("cannot write to standard output");
  if (options.write_check) PENSTOCK_RETURN_IF_ERROR(WriteCheck(options));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelReport> InspectModel(const InspectOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(const ModelFile file, OpenModel(options.model));
  const ModelConfig& config = file.config;
  ModelReport report;
  report.path = options.model;
  report.config = config;
  PENSTOCK_ASSIGN_OR_RETURN(report.tensors, ListTensors(file, options.model));
  InspectTokenizer(options.model, &report);
  report.parameters = NumParameters(config);
  for (const InspectedTensor& tensor : report.tensors) report.weight_bytes += tensor.bytes;
  report.sequences = options.max_sequences;
  report.context = options.context > 0 ? options.context : config.context_length;
  const int64_t block_bytes = KvCache::BlockBytes(config, config.num_layers);
  report.kv_token_bytes = block_bytes / kBlockSize;
  report.kv_bytes =
      CheckedProduct({CheckedSize(block_bytes), CheckedSize(BlocksFor(report.context)),
                      CheckedSize(report.sequences)})
          .value()
          .value_or(INT64_MAX);
  report.workspace_bytes = WorkspaceBytes(config, options);
  if (options.stages > 0 || !options.split.empty()) {
    PENSTOCK_ASSIGN_OR_RETURN(report.stages, InspectStages(options, file, report.workspace_bytes));
  }
  return report;
}

int RunInspect(const InspectOptions& options) {
  const absl::Status status = Inspect(options);
  if (status.ok()) return 0;
  std::cerr << "penstock inspect: " << Message(status) << "\n";
  return 1;
}

}  // namespace penstock
