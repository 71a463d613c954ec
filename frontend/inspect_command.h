// `penstock inspect`: what a model is and what it needs, without loading it; and the making of the
// check file that a server holds it against.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/model/model_config.h"
#include "core/sched/layer_split.h"
#include "core/tensor/tensor.h"
#include "frontend/model_runtime.h"

namespace penstock {

struct InspectOptions {
  std::string model;
  int64_t max_sequences = 64;     // the needs are told for so many
  int64_t context = 0;            // of so many tokens; 0: the model's
  int64_t max_step_tokens = 512;  // of one step
  bool tensors = false;           // list them all
  bool json = false;
  bool write_check = false;
  int threads = 0;  // of the generation for the check file

  int64_t stages = 0;             // tell how the layers are shared out over so many; 0: do not
  std::string split;              // the layers of each stage, "10,12,8"; empty: the best
  int64_t stage_memory = 0;       // bytes of each stage; 0: unknown
  int64_t kv_memory = 1LL << 30;  // bytes of each stage for KV
};

struct InspectedTensor {
  std::string name;
  std::string type;
  Shape shape;
  int64_t bytes = 0;
};

// How the layers are shared out.
struct StagesReport {
  static constexpr int64_t kBatches[] = {1, 16};  // decodes together, of which times are predicted

  SplitOptions options;
  LayerSplit split;
  std::vector<std::vector<int64_t>> step_ns;  // [batch][stage]
};

// What is told of a model.
struct ModelReport {
  std::string path;
  ModelConfig config;
  std::vector<InspectedTensor> tensors;
  std::string tokenizer;      // its kind
  int64_t vocabulary = 0;     // tokens of it
  std::string chat_template;  // the layout's name, or why there is none
  bool knows_chat = false;
  int64_t parameters = 0;
  int64_t weight_bytes = 0;
  int64_t sequences = 0;
  int64_t context = 0;
  int64_t kv_token_bytes = 0;   // of one token
  int64_t kv_bytes = 0;         // of all sequences at their longest
  int64_t workspace_bytes = 0;  // of a step, about
  std::optional<StagesReport> stages;
};

// Errors: the file's; SplitLayers'.
absl::StatusOr<ModelReport> InspectModel(const InspectOptions& options);

// For people, and as one JSON object; both with a line break at the end.
std::string ReportToText(const ModelReport& report, bool tensors);
std::string ReportToJson(const ModelReport& report, bool tensors);

// The program's exit code; says on standard error what went wrong.
int RunInspect(const InspectOptions& options);

}  // namespace penstock
