#include "core/io/hf_config.h"

#include <algorithm>
#include <filesystem>

#include "core/base/quoted.h"
#include "core/io/json.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kConfig = "config.json";
// Real ones have some kilobytes.
constexpr int64_t kMaxConfigBytes = int64_t{4} << 20;

// What the families differ in, where config.json is silent.
struct Family {
  std::string_view architecture;  // ours, and model_type
  std::string_view name;          // in `architectures`
  bool qkv_bias;
  bool qk_norm;
  int64_t sliding_window;  // where the key is missing; 0: none
  bool switched_window;    // sliding_window counts only with use_sliding_window
  int64_t head_dim;        // 0: hidden_size / num_attention_heads
};

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", false, false, 0, false, 0},
    {"mistral", "MistralForCausalLM", false, false, 4096, false, 0},
    {"qwen2", "Qwen2ForCausalLM", true, false, 4096, true, 0},
    {"qwen3", "Qwen3ForCausalLM", false, true, 4096, true, 128},
};

class HfConfigReader {
 public:
  explicit HfConfigReader(const JsonDocument& document)
      : file_(document.name()), root_(document.root()) {}

  absl::StatusOr<ModelConfig> Read() {
    PENSTOCK_RETURN_IF_ERROR(root_.CheckObject());
    PENSTOCK_RETURN_IF_ERROR(ReadFamily());
    PENSTOCK_RETURN_IF_ERROR(CheckQuantization());
    PENSTOCK_RETURN_IF_ERROR(ReadSizes());
    PENSTOCK_RETURN_IF_ERROR(ReadRope());
    PENSTOCK_RETURN_IF_ERROR(ReadWindow());
    PENSTOCK_RETURN_IF_ERROR(CheckTheRestIsPlain());
    if (absl::Status status = Validate(config_); !status.ok()) return Annotate(status, file_);
    return std::move(config_);
  }

 private:
  template <typename... Parts>
  absl::Status Unsupported(const Parts&... parts) const {
    return absl::UnimplementedError(absl::StrCat(file_, ": ", parts...));
  }

  absl::Status ReadFamily();
  absl::Status CheckQuantization() const;
  absl::Status ReadSizes();
  absl::Status ReadRope();
  absl::Status ReadRopeScaling(const JsonValue& rope);
  absl::Status ReadWindow();
  absl::StatusOr<int64_t> NumSlidingLayers() const;
  absl::Status CheckTheRestIsPlain() const;

  const std::string file_;
  const JsonValue root_;
  const Family* family_ = nullptr;
  ModelConfig config_;
};

absl::Status HfConfigReader::ReadFamily() {
  std::string_view found;  // by `architectures`, which says more than model_type
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view model_type, root_.StringOr("model_type", ""));
  if (const auto list = root_.Find("architectures")) {
    if (list->size() != 1) return list->Unexpected("an array of one architecture");
    PENSTOCK_ASSIGN_OR_RETURN(found, list->at(0).AsString());
  }
  std::string known;
  for (const Family& family : kFamilies) {
    const bool same = found.empty() ? family.architecture == model_type : family.name == found;
    if (same) family_ = &family;
    absl::StrAppend(&known, known.empty() ? "" : ", ", Abs(family.name));
  }
  if (family_ == nullptr) {
    return Unsupported("the architecture ", Quoted(found.empty() ? model_type : found),
                       " is not supported; these are: ", known);
  }
  if (!model_type.empty() && model_type != family_->architecture) {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": model_type is ", Quoted(model_type),
                                                   "; ", Quoted(family_->architecture),
                                                   " is expected of ", Quoted(found)));
  }
  config_.architecture = std::string(family_->architecture);
  config_.qkv_bias = family_->qkv_bias;
  config_.qk_norm = family_->qk_norm;
  return absl::OkStatus();
}

absl::Status HfConfigReader::CheckQuantization() const {
  for (const std::string_view key : {"quantization_config", "compression_config"}) {
    const auto quantization = root_.Find(key);
    if (!quantization) continue;
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view method,
                              quantization->StringOr("quant_method", "unknown"));
    return Unsupported(Abs(key), " says that the weights are quantized (", Quoted(method),
                       "); safetensors are supported with f32, f16 and bf16 weights, quantized "
                       "models as GGUF files");
  }
  return absl::OkStatus();
}

absl::Status HfConfigReader::ReadSizes() {
  PENSTOCK_ASSIGN_OR_RETURN(config_.hidden_size, root_.Int("hidden_size"));
  PENSTOCK_ASSIGN_OR_RETURN(config_.intermediate_size, root_.Int("intermediate_size"));
  PENSTOCK_ASSIGN_OR_RETURN(config_.num_layers, root_.Int("num_hidden_layers"));
  PENSTOCK_ASSIGN_OR_RETURN(config_.num_heads, root_.Int("num_attention_heads"));
  PENSTOCK_ASSIGN_OR_RETURN(config_.vocab_size, root_.Int("vocab_size"));
  PENSTOCK_ASSIGN_OR_RETURN(config_.context_length, root_.Int("max_position_embeddings"));
  // Only Llama's class takes as many KV heads as heads; the others always write the number.
  if (family_->architecture == "llama" && !root_.Find("num_key_value_heads")) {
    config_.num_kv_heads = config_.num_heads;
  } else {
    PENSTOCK_ASSIGN_OR_RETURN(config_.num_kv_heads, root_.Int("num_key_value_heads"));
  }
  config_.head_dim = family_->head_dim;
  if (root_.Find("head_dim")) {
    PENSTOCK_ASSIGN_OR_RETURN(config_.head_dim, root_.Int("head_dim"));
  } else if (config_.head_dim == 0) {
    if (config_.num_heads < 1 || config_.hidden_size % config_.num_heads != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_, ": hidden_size (", config_.hidden_size,
                       ") is no multiple of num_attention_heads (", config_.num_heads,
                       "), and there is no head_dim to say how wide a head is"));
    }
    config_.head_dim = config_.hidden_size / config_.num_heads;
  }
  PENSTOCK_ASSIGN_OR_RETURN(const double eps, root_.Number("rms_norm_eps"));
  config_.rms_norm_eps = static_cast<float>(eps);
  PENSTOCK_ASSIGN_OR_RETURN(config_.tied_embeddings, root_.BoolOr("tie_word_embeddings", false));
  return absl::OkStatus();
}

// transformers 5 writes rope_parameters with everything in it, 4 rope_theta and rope_scaling.
absl::Status HfConfigReader::ReadRope() {
  PENSTOCK_ASSIGN_OR_RETURN(double theta, root_.NumberOr("rope_theta", 10000.0));
  auto rope = root_.Find("rope_parameters");
  if (rope) {
    PENSTOCK_RETURN_IF_ERROR(rope->CheckObject());
    PENSTOCK_ASSIGN_OR_RETURN(theta, rope->NumberOr("rope_theta", theta));
  } else {
    rope = root_.Find("rope_scaling");
  }
  config_.rope_theta = static_cast<float>(theta);
  return rope ? ReadRopeScaling(*rope) : absl::OkStatus();
}

absl::Status HfConfigReader::ReadRopeScaling(const JsonValue& rope) {
  PENSTOCK_RETURN_IF_ERROR(rope.CheckObject());
  for (int64_t i = 0; i < rope.size(); ++i) {
    if (rope.at(i).is_object()) {
      return Unsupported(rope.Path(),
                         " has parameters for each kind of layer; one RoPE for all "
                         "layers is supported");
    }
  }
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view old_type, rope.StringOr("type", "default"));
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view type, rope.StringOr("rope_type", old_type));
  PENSTOCK_ASSIGN_OR_RETURN(const double share, rope.NumberOr("partial_rotary_factor", 1.0));
  if (share != 1.0) {
    return Unsupported(rope.Path(), ".partial_rotary_factor is ", share,
                       "; RoPE over whole heads is supported");
  }
  RopeScaling& scaling = config_.rope_scaling;
  if (type == "default") return absl::OkStatus();
  if (type != "linear" && type != "llama3") {
    return Unsupported(rope.Path(), " is of the type ", Quoted(type),
                       "; default, linear and llama3 are supported");
  }
  PENSTOCK_ASSIGN_OR_RETURN(const double factor, rope.Number("factor"));
  scaling.factor = static_cast<float>(factor);
  scaling.type = RopeScaling::Type::kLinear;
  if (type == "linear") return absl::OkStatus();
  scaling.type = RopeScaling::Type::kLlama3;
  PENSTOCK_ASSIGN_OR_RETURN(const double low, rope.Number("low_freq_factor"));
  PENSTOCK_ASSIGN_OR_RETURN(const double high, rope.Number("high_freq_factor"));
  PENSTOCK_ASSIGN_OR_RETURN(scaling.original_context, rope.Int("original_max_position_embeddings"));
  scaling.low_freq_factor = static_cast<float>(low);
  scaling.high_freq_factor = static_cast<float>(high);
  return absl::OkStatus();
}

absl::Status HfConfigReader::ReadWindow() {
  if (family_->sliding_window == 0) return absl::OkStatus();
  if (family_->switched_window) {
    PENSTOCK_ASSIGN_OR_RETURN(const bool used, root_.BoolOr("use_sliding_window", false));
    if (!used) return absl::OkStatus();
  }
  int64_t window = family_->sliding_window;
  if (root_.Has("sliding_window")) {
    const auto value = root_.Find("sliding_window");
    if (!value) return absl::OkStatus();  // null: none
    PENSTOCK_ASSIGN_OR_RETURN(window, value->AsInt());
    if (window < 1) return value->Unexpected("null or a number of positions above 0");
  }
  if (family_->switched_window) {
    PENSTOCK_ASSIGN_OR_RETURN(const int64_t sliding, NumSlidingLayers());
    if (sliding == 0) return absl::OkStatus();
    if (sliding != config_.num_layers) {
      return Unsupported("only ", sliding, " of ", config_.num_layers,
                         " layers have a sliding window; models in which all or none have one are "
                         "supported");
    }
  }
  config_.sliding_window = window;
  return absl::OkStatus();
}

// By layer_types, or, before transformers 5, all layers from max_window_layers on.
absl::StatusOr<int64_t> HfConfigReader::NumSlidingLayers() const {
  const auto types = root_.Find("layer_types");
  if (!types) {
    constexpr int64_t kDefault = 28;
    PENSTOCK_ASSIGN_OR_RETURN(const int64_t full, root_.IntOr("max_window_layers", kDefault));
    return config_.num_layers -
           std::clamp<int64_t>(full, 0, std::max<int64_t>(config_.num_layers, 0));
  }
  PENSTOCK_RETURN_IF_ERROR(types->CheckArray());
  if (types->size() != config_.num_layers) {
    return types->Unexpected(absl::StrCat("one type for each of ", config_.num_layers, " layers"));
  }
  int64_t sliding = 0;
  for (int64_t i = 0; i < types->size(); ++i) {
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view type, types->at(i).AsString());
    if (type == "sliding_attention") {
      ++sliding;
    } else if (type != "full_attention") {
      return Unsupported(types->at(i).Path(), " is ", Quoted(type),
                         "; full_attention and sliding_attention are supported");
    }
  }
  return sliding;
}

absl::Status HfConfigReader::CheckTheRestIsPlain() const {
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view act, root_.StringOr("hidden_act", "silu"));
  if (act != "silu") {
    return Unsupported("hidden_act is ", Quoted(act), "; silu is supported");
  }
  // Qwen2 has its bias without being asked, and only of q, k and v.
  if (family_->architecture != "qwen2") {
    PENSTOCK_ASSIGN_OR_RETURN(const bool bias, root_.BoolOr("attention_bias", false));
    if (bias) {
      return Unsupported(
          "attention_bias is true, which gives o_proj a bias too; a bias of q_proj, k_proj and "
          "v_proj alone (Qwen2) is supported");
    }
  }
  PENSTOCK_ASSIGN_OR_RETURN(const bool mlp_bias, root_.BoolOr("mlp_bias", false));
  if (mlp_bias) return Unsupported("mlp_bias is true; an MLP without biases is supported");
  PENSTOCK_ASSIGN_OR_RETURN(const double share, root_.NumberOr("partial_rotary_factor", 1.0));
  if (share != 1.0) {
    return Unsupported("partial_rotary_factor is ", share, "; RoPE over whole heads is supported");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ReadHfConfig(const std::string& folder) {
  PENSTOCK_ASSIGN_OR_RETURN(const auto document,
                            JsonDocument::Open(fs::path(folder) / kConfig, kMaxConfigBytes));
  PENSTOCK_ASSIGN_OR_RETURN(ModelConfig config, HfConfigReader(*document).Read());
  std::error_code error;
  const fs::path whole = fs::canonical(folder, error);
  config.name = (error ? fs::path(folder) : whole).filename();
  return config;
}

absl::StatusOr<ModelConfig> ParseHfConfig(const std::string& name, std::string_view text) {
  PENSTOCK_ASSIGN_OR_RETURN(const auto document, JsonDocument::Parse(name, text, kMaxConfigBytes));
  return HfConfigReader(*document).Read();
}

}  // namespace penstock
