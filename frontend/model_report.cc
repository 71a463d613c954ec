// How `penstock inspect` says what it found.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "frontend/inspect_command.h"

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

struct TypeSum {
  int64_t tensors = 0;
  int64_t bytes = 0;
};

std::map<std::string, TypeSum> ByType(const ModelReport& report) {
  std::map<std::string, TypeSum> sums;
  for (const InspectedTensor& tensor : report.tensors) {
    ++sums[tensor.type].tensors;
    sums[tensor.type].bytes += tensor.bytes;
  }
  return sums;
}

std::string_view RopeName(RopeScaling::Type type) {
  switch (type) {
    case RopeScaling::Type::kNone:
      return "none";
    case RopeScaling::Type::kLinear:
      return "linear";
    case RopeScaling::Type::kLlama3:
      return "llama3";
    case RopeScaling::Type::kFactors:
      return "factors";
  }
  return "unknown";
}

std::string Mb(int64_t bytes) {
  return absl::StrFormat("%.1f MB", static_cast<double>(bytes) * 1e-6);
}

Json Dims(const Shape& shape) {
  Json dims = Json::array();
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

Json ConfigJson(const ModelConfig& config) {
  return {{"hidden_size", config.hidden_size},
          {"intermediate_size", config.intermediate_size},
          {"num_layers", config.num_layers},
          {"num_heads", config.num_heads},
          {"num_kv_heads", config.num_kv_heads},
          {"head_dim", config.head_dim},
          {"vocab_size", config.vocab_size},
          {"context_length", config.context_length},
          {"rms_norm_eps", config.rms_norm_eps},
          {"rope_theta", config.rope_theta},
          {"rope_scaling", std::string(RopeName(config.rope_scaling.type))},
          {"sliding_window", config.sliding_window},
          {"qkv_bias", config.qkv_bias},
          {"qk_norm", config.qk_norm},
          {"tied_embeddings", config.tied_embeddings}};
}

double Ms(int64_t ns) { return static_cast<double>(ns) * 1e-6; }

// Of the slowest stage's time: what of its time this one works when all are fed.
double Share(const std::vector<int64_t>& times, size_t stage) {
  return static_cast<double>(times[stage]) /
         static_cast<double>(*std::max_element(times.begin(), times.end()));
}

std::string StagesToText(const StagesReport& report) {
  const LayerSplit& split = report.split;
  const SplitOptions& options = report.options;
  std::string text = absl::StrFormat(
      "stages           %d, %s; steps of decodes at %d tokens each, predicted\n"
      "  for %.0f GB/s and %.0f GFLOP/s a stage, with the share of the slowest one's time\n"
      "  stage layers       weights  KV a token",
      options.num_stages,
      options.layers.empty() ? "the split that is fastest" : "split as asked for", options.context,
      static_cast<double>(options.rates.bytes_per_second) * 1e-9,
      static_cast<double>(options.rates.flops_per_second) * 1e-9);
  for (const int64_t batch : StagesReport::kBatches) {
    absl::StrAppendFormat(&text, "  %16s", absl::StrCat("batch ", batch));
  }
  text += "   max blocks      unused\n";
  for (size_t i = 0; i < split.stages.size(); ++i) {
    const StageSplit& stage = split.stages[i];
    absl::StrAppendFormat(&text, "  %5d %-7s %12s  %10d", i,
                          absl::StrCat(stage.layers.first, "-", stage.layers.last - 1),
                          Mb(stage.weight_bytes), stage.block_bytes / kBlockSize);
    for (const std::vector<int64_t>& times : report.step_ns) {
      absl::StrAppendFormat(&text, "  %7.2f ms (%3.0f%%)", Ms(times[i]), 100 * Share(times, i));
    }
    absl::StrAppendFormat(&text, "  %11d  %10s\n", stage.max_blocks, Mb(stage.unused_bytes));
  }
  absl::StrAppendFormat(&text, "  KV blocks      %d of %d tokens, the least over the stages\n",
                        split.num_blocks, kBlockSize);
  return text;
}

Json StagesJson(const StagesReport& report) {
  Json stages = Json::array();
  for (size_t i = 0; i < report.split.stages.size(); ++i) {
    const StageSplit& stage = report.split.stages[i];
    Json steps = Json::array();
    for (size_t batch = 0; batch < report.step_ns.size(); ++batch) {
      steps.push_back({{"batch", StagesReport::kBatches[batch]},
                       {"ms", Ms(report.step_ns[batch][i])},
                       {"share", Share(report.step_ns[batch], i)}});
    }
    stages.push_back({{"first_layer", stage.layers.first},
                      {"layers", stage.layers.count()},
                      {"weights", stage.weight_bytes},
                      {"kv_per_token", stage.block_bytes / kBlockSize},
                      {"steps", std::move(steps)},
                      {"max_blocks", stage.max_blocks},
                      {"unused", stage.unused_bytes}});
  }
  return stages;
}

}  // namespace

std::string ReportToText(const ModelReport& report, bool tensors) {
  const ModelConfig& config = report.config;
  // Text from the file reaches a terminal: escaped.
  std::string text = absl::StrFormat(
      "model            %s (%s), %.1f million parameters\n"
      "layers           %d, hidden size %d, feed-forward size %d\n"
      "attention        %d heads of %d, %d for keys and values%s%s%s\n"
      "context          %d tokens, RoPE theta %g, scaling %s\n"
      "vocabulary       %d, %s, embeddings %s\n"
      "chat template    %s\n",
      config.name.empty() ? report.path : absl::CHexEscape(config.name), config.architecture,
      static_cast<double>(report.parameters) * 1e-6, config.num_layers, config.hidden_size,
      config.intermediate_size, config.num_heads, config.head_dim, config.num_kv_heads,
      config.qkv_bias ? ", with biases" : "", config.qk_norm ? ", with q and k norms" : "",
      config.sliding_window > 0 ? absl::StrCat(", a window of ", config.sliding_window) : "",
      config.context_length, config.rope_theta, Abs(RopeName(config.rope_scaling.type)),
      config.vocab_size, absl::CHexEscape(report.tokenizer),
      config.tied_embeddings ? "tied" : "apart from the LM head",
      report.knows_chat ? report.chat_template : "none: " + report.chat_template);
  absl::StrAppend(&text, "tensors          ", report.tensors.size(), "\n");
  for (const auto& [type, sum] : ByType(report)) {
    absl::StrAppendFormat(&text, "  %-6s         %d, %s\n", type, sum.tensors, Mb(sum.bytes));
  }
  absl::StrAppendFormat(&text,
                        "memory\n"
                        "  weights        %s\n"
                        "  keys, values   %s: %d bytes a token, %d sequences of %d tokens\n"
                        "  workspace      about %s\n",
                        Mb(report.weight_bytes), Mb(report.kv_bytes), report.kv_token_bytes,
                        report.sequences, report.context, Mb(report.workspace_bytes));
  if (report.stages.has_value()) text += StagesToText(*report.stages);
  if (!tensors) return text;
  for (const InspectedTensor& tensor : report.tensors) {
    absl::StrAppendFormat(&text, "%-44s %-6s %-16s %d\n", tensor.name, tensor.type,
                          tensor.shape.ToString(), tensor.bytes);
  }
  return text;
}

std::string ReportToJson(const ModelReport& report, bool tensors) {
  Json json;
  json["name"] = report.config.name;
  json["architecture"] = report.config.architecture;
  json["parameters"] = report.parameters;
  json["config"] = ConfigJson(report.config);
  json["tokenizer"] = report.tokenizer;
  json["vocabulary"] = report.vocabulary;
  json["chat_template"] = report.knows_chat ? Json(report.chat_template) : Json();
  if (!report.knows_chat) json["no_chat_template"] = report.chat_template;
  Json& types = json["types"] = Json::object();
  for (const auto& [type, sum] : ByType(report)) {
    types[type] = {{"tensors", sum.tensors}, {"bytes", sum.bytes}};
  }
  json["memory"] = {{"weights", report.weight_bytes}, {"kv_per_token", report.kv_token_bytes},
                    {"sequences", report.sequences},  {"context", report.context},
                    {"kv", report.kv_bytes},          {"workspace", report.workspace_bytes}};
  if (report.stages.has_value()) {
    json["stages"] = StagesJson(*report.stages);
    json["kv_blocks"] = report.stages->split.num_blocks;
  }
  if (tensors) {
    Json& list = json["tensors"] = Json::array();
    for (const InspectedTensor& tensor : report.tensors) {
      list.push_back({{"name", tensor.name},
                      {"type", tensor.type},
                      {"shape", Dims(tensor.shape)},
                      {"bytes", tensor.bytes}});
    }
  }
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace penstock
