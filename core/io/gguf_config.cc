#include <string>
#include <vector>

#include "core/io/gguf.h"
#include "core/io/gguf_format.h"
#include "core/io/tensor_names.h"

namespace penstock {
namespace {

constexpr std::string_view kRopeFactors = "rope_freqs.weight";
constexpr std::string_view kArchitectures[] = {"llama", "qwen2", "qwen3"};  // Mistral's is llama

// The metadata of one architecture, whose keys all open with its name.
class Metadata {
 public:
  Metadata(const GgufFile& file, std::string_view architecture)
      : file_(file), architecture_(architecture) {}

  std::string Key(std::string_view name) const {
    return absl::StrCat(Abs(architecture_), ".", Abs(name));
  }
  bool Has(std::string_view name) const { return file_.HasKey(Key(name)); }
  absl::StatusOr<int64_t> Int(std::string_view name) const { return file_.GetInt(Key(name)); }
  absl::StatusOr<int64_t> IntOr(std::string_view name, int64_t otherwise) const {
    return Has(name) ? Int(name) : otherwise;
  }
  absl::StatusOr<float> Float(std::string_view name) const { return file_.GetFloat(Key(name)); }
  absl::StatusOr<float> FloatOr(std::string_view name, float otherwise) const {
    return Has(name) ? Float(name) : otherwise;
  }
  // UNIMPLEMENTED unless the integer is absent or `supported`.
  absl::Status Only(std::string_view name, int64_t supported) const {
    PENSTOCK_ASSIGN_OR_RETURN(const int64_t value, IntOr(name, supported));
    if (value == supported) return absl::OkStatus();
    return absl::UnimplementedError(absl::StrCat(file_.path(), ": ", Key(name), " is ", value,
                                                 "; for this model only ", supported,
                                                 " is supported"));
  }

 private:
  const GgufFile& file_;
  const std::string_view architecture_;
};

// The file's own name of its architecture, one of those above.
absl::StatusOr<std::string_view> ReadArchitecture(const GgufFile& file) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view architecture,
                            file.GetString("general.architecture"));
  std::string known;
  for (const std::string_view name : kArchitectures) {
    if (name == architecture) return name;
    absl::StrAppend(&known, known.empty() ? "" : ", ", Quoted(name));
  }
  return absl::UnimplementedError(absl::StrCat(file.path(), ": the architecture ",
                                               Quoted(architecture),
                                               " is not supported; these are: ", known));
}

absl::StatusOr<int64_t> ReadHeadDim(const GgufFile& file, const Metadata& metadata,
                                    const ModelConfig& config) {
  if (metadata.Has("attention.key_length")) return metadata.Int("attention.key_length");
  if (config.num_heads < 1 || config.hidden_size % config.num_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": ", metadata.Key("embedding_length"), " (", config.hidden_size,
        ") is no multiple of ", metadata.Key("attention.head_count"), " (", config.num_heads,
        "), and there is no ", metadata.Key("attention.key_length"), " to say how wide a head is"));
  }
  return config.hidden_size / config.num_heads;
}

absl::StatusOr<int64_t> ReadVocabSize(const GgufFile& file, const Metadata& metadata) {
  constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
  if (!file.HasKey(kTokens)) return metadata.Int("vocab_size");
  PENSTOCK_ASSIGN_OR_RETURN(const auto tokens, file.GetStrings(kTokens));
  const auto num_tokens = static_cast<int64_t>(tokens.size());
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t vocab_size, metadata.IntOr("vocab_size", num_tokens));
  if (num_tokens > vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": ", Abs(kTokens), " holds ", num_tokens, " tokens but ",
        metadata.Key("vocab_size"), " is ", vocab_size, "; at most that many are expected"));
  }
  return vocab_size;
}

// Mistral's files say how far a token sees. A Qwen2 file with such a key could mean some layers
// only, and does not say which.
absl::StatusOr<int64_t> ReadWindow(const Metadata& metadata, std::string_view architecture) {
  constexpr std::string_view kWindow = "attention.sliding_window";
  if (architecture != "llama") PENSTOCK_RETURN_IF_ERROR(metadata.Only(kWindow, 0));
  return metadata.IntOr(kWindow, 0);
}

// Llama 3.1's scaling: a divisor for each frequency, made by the converter.
absl::StatusOr<std::vector<float>> ReadRopeFactors(const GgufFile& file, int64_t head_dim) {
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor tensor, file.GetTensor(kRopeFactors));
  if (tensor.type() != DataType::kF32 || !(tensor.shape() == Shape({head_dim / 2}))) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": tensor ", Quoted(kRopeFactors), " is ",
                     Abs(Name(tensor.type())), " of the shape ", tensor.shape().ToString(),
                     "; f32 of the shape [", head_dim / 2, "] is expected, half a head"));
  }
  const auto* factors = static_cast<const float*>(tensor.raw());
  return std::vector<float>(factors, factors + head_dim / 2);
}

// Anything but what is read here would give wrong text silently.
absl::Status ReadRope(const GgufFile& file, const Metadata& metadata, ModelConfig* config) {
  PENSTOCK_RETURN_IF_ERROR(metadata.Only("rope.dimension_count", config->head_dim));
  constexpr std::string_view kType = "rope.scaling.type";
  constexpr std::string_view kFactor = "rope.scaling.factor";
  float factor = 1.0f;
  // Older files have the factor of linear scaling alone, and 0 for none.
  for (const std::string_view name : {std::string_view("rope.scale_linear"), kFactor}) {
    PENSTOCK_ASSIGN_OR_RETURN(factor, metadata.FloatOr(name, factor));
  }
  std::string_view type = factor == 1.0f || factor == 0.0f ? "none" : "linear";
  if (metadata.Has(kType)) {
    PENSTOCK_ASSIGN_OR_RETURN(type, file.GetString(metadata.Key(kType)));
    if (type == "linear") PENSTOCK_RETURN_IF_ERROR(metadata.Float(kFactor).status());
  }
  RopeScaling& scaling = config->rope_scaling;
  if (type == "linear") {
    scaling.type = RopeScaling::Type::kLinear;
    scaling.factor = factor;
  } else if (type != "none") {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": RoPE scaling of the type ",
                                                 Quoted(type),
                                                 " is not supported; 'none', 'linear' and a "
                                                 "tensor 'rope_freqs.weight' are"));
  }
  if (!file.HasTensor(kRopeFactors)) return absl::OkStatus();
  PENSTOCK_ASSIGN_OR_RETURN(scaling.factors, ReadRopeFactors(file, config->head_dim));
  // Where both are there, both divide.
  if (scaling.type == RopeScaling::Type::kLinear) {
    for (float& each : scaling.factors) each *= factor;
  }
  scaling.type = RopeScaling::Type::kFactors;
  return absl::OkStatus();
}

// A tensor that nothing here computes with would be left out silently, and the text be wrong.
absl::Status CheckTensors(const GgufFile& file, const ModelConfig& config) {
  for (const std::string_view name : file.TensorNames()) {
    const auto canonical = FromGgufTensorName(name);
    if ((canonical && IsTensorOf(config, *canonical)) || name == kRopeFactors) continue;
    return absl::UnimplementedError(absl::StrCat(
        file.path(), ": tensor ", Quoted(name), " cannot be used in a model of ", config.num_layers,
        " layers: no supported model of this architecture has such a tensor"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ReadGgufConfig(const GgufFile& file) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view architecture, ReadArchitecture(file));
  const Metadata metadata(file, architecture);
  ModelConfig config;
  config.architecture = std::string(architecture);
  if (file.HasKey("general.name")) {
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view name, file.GetString("general.name"));
    config.name = std::string(name);
  }
  PENSTOCK_ASSIGN_OR_RETURN(config.num_layers, metadata.Int("block_count"));
  PENSTOCK_ASSIGN_OR_RETURN(config.hidden_size, metadata.Int("embedding_length"));
  PENSTOCK_ASSIGN_OR_RETURN(config.intermediate_size, metadata.Int("feed_forward_length"));
  PENSTOCK_ASSIGN_OR_RETURN(config.context_length, metadata.Int("context_length"));
  PENSTOCK_ASSIGN_OR_RETURN(config.num_heads, metadata.Int("attention.head_count"));
  PENSTOCK_ASSIGN_OR_RETURN(config.num_kv_heads,
                            metadata.IntOr("attention.head_count_kv", config.num_heads));
  PENSTOCK_ASSIGN_OR_RETURN(config.head_dim, ReadHeadDim(file, metadata, config));
  PENSTOCK_ASSIGN_OR_RETURN(config.vocab_size, ReadVocabSize(file, metadata));
  PENSTOCK_ASSIGN_OR_RETURN(config.rms_norm_eps,
                            metadata.Float("attention.layer_norm_rms_epsilon"));
  PENSTOCK_ASSIGN_OR_RETURN(config.rope_theta,
                            metadata.FloatOr("rope.freq_base", config.rope_theta));
  PENSTOCK_ASSIGN_OR_RETURN(config.sliding_window, ReadWindow(metadata, architecture));
  config.tied_embeddings = !file.HasTensor("output.weight");
  config.qkv_bias = file.HasTensor("blk.0.attn_q.bias");
  config.qk_norm = file.HasTensor("blk.0.attn_q_norm.weight");
  if (absl::Status status = Validate(config); !status.ok()) return Annotate(status, file.path());

  PENSTOCK_RETURN_IF_ERROR(metadata.Only("attention.value_length", config.head_dim));
  PENSTOCK_RETURN_IF_ERROR(metadata.Only("expert_count", 0));
  PENSTOCK_RETURN_IF_ERROR(ReadRope(file, metadata, &config));
  if (absl::Status status = Validate(config); !status.ok()) return Annotate(status, file.path());
  PENSTOCK_RETURN_IF_ERROR(CheckTensors(file, config));
  return config;
}

}  // namespace penstock
