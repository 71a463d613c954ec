#include <string>

#include "core/io/gguf.h"
#include "core/io/gguf_format.h"
#include "core/io/tensor_names.h"

namespace penstock {
namespace {

constexpr std::string_view kArchitecture = "llama";

// The metadata of one architecture, whose keys all open with its name.
class LlamaMetadata {
 public:
  explicit LlamaMetadata(const GgufFile& file) : file_(file) {}

  std::string Key(std::string_view name) const {
    return absl::StrCat(Abs(kArchitecture), ".", Abs(name));
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
};

absl::Status CheckArchitecture(const GgufFile& file) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view architecture,
                            file.GetString("general.architecture"));
  if (architecture == kArchitecture) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(file.path(), ": the architecture ",
                                               Quoted(architecture), " is not supported; ",
                                               Quoted(kArchitecture), " is"));
}

absl::StatusOr<int64_t> ReadHeadDim(const GgufFile& file, const ModelConfig& config) {
  const LlamaMetadata metadata(file);
  if (metadata.Has("attention.key_length")) return metadata.Int("attention.key_length");
  if (config.num_heads < 1 || config.hidden_size % config.num_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": ", metadata.Key("embedding_length"), " (", config.hidden_size,
        ") is no multiple of ", metadata.Key("attention.head_count"), " (", config.num_heads,
        "), and there is no ", metadata.Key("attention.key_length"), " to say how wide a head is"));
  }
  return config.hidden_size / config.num_heads;
}

absl::StatusOr<int64_t> ReadVocabSize(const GgufFile& file) {
  const LlamaMetadata metadata(file);
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

// Positions are rotated by the plain rule only; anything else would give wrong text silently.
absl::Status CheckRope(const GgufFile& file, const ModelConfig& config) {
  const LlamaMetadata metadata(file);
  PENSTOCK_RETURN_IF_ERROR(metadata.Only("rope.dimension_count", config.head_dim));
  constexpr std::string_view kType = "rope.scaling.type";
  std::string_view type = "none";
  if (metadata.Has(kType)) {
    PENSTOCK_ASSIGN_OR_RETURN(type, file.GetString(metadata.Key(kType)));
  } else {
    // Older files have the factor of linear scaling alone.
    for (const std::string_view name : {"rope.scaling.factor", "rope.scale_linear"}) {
      PENSTOCK_ASSIGN_OR_RETURN(const float factor, metadata.FloatOr(name, 1.0f));
      if (factor != 1.0f && factor != 0.0f) type = "linear";
    }
  }
  if (type == "none") return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(file.path(), ": RoPE scaling of the type ",
                                               Quoted(type),
                                               " is not supported yet; models "
                                               "without RoPE scaling are"));
}

// A tensor that nothing here computes with would be left out silently, and the text be wrong.
absl::Status CheckTensors(const GgufFile& file, const ModelConfig& config) {
  for (const std::string_view name : file.TensorNames()) {
    const auto canonical = FromGgufTensorName(name);
    if (canonical && IsTensorOf(config, *canonical)) continue;
    const std::string_view meaning =
        name == "rope_freqs.weight" ? "it scales RoPE by frequency, which is not supported yet"
                                    : "no supported model of this architecture has such a tensor";
    return absl::UnimplementedError(absl::StrCat(file.path(), ": tensor ", Quoted(name),
                                                 " cannot be used in a model of ",
                                                 config.num_layers, " layers: ", Abs(meaning)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ReadGgufConfig(const GgufFile& file) {
  PENSTOCK_RETURN_IF_ERROR(CheckArchitecture(file));
  const LlamaMetadata metadata(file);
  ModelConfig config;
  config.architecture = std::string(kArchitecture);
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
  PENSTOCK_ASSIGN_OR_RETURN(config.head_dim, ReadHeadDim(file, config));
  PENSTOCK_ASSIGN_OR_RETURN(config.vocab_size, ReadVocabSize(file));
  PENSTOCK_ASSIGN_OR_RETURN(config.rms_norm_eps,
                            metadata.Float("attention.layer_norm_rms_epsilon"));
  PENSTOCK_ASSIGN_OR_RETURN(config.rope_theta,
                            metadata.FloatOr("rope.freq_base", config.rope_theta));
  config.tied_embeddings = !file.HasTensor("output.weight");
  if (absl::Status status = Validate(config); !status.ok()) return Annotate(status, file.path());

  PENSTOCK_RETURN_IF_ERROR(metadata.Only("attention.value_length", config.head_dim));
  PENSTOCK_RETURN_IF_ERROR(metadata.Only("expert_count", 0));
  PENSTOCK_RETURN_IF_ERROR(CheckRope(file, config));
  PENSTOCK_RETURN_IF_ERROR(CheckTensors(file, config));
  return config;
}

}  // namespace penstock
