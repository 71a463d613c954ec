#include "core/model/model_config.h"

#include <cmath>

namespace penstock {
namespace {

// Far above any model that exists, and low enough that no product of a few of them overflows.
struct Bound {
  const char* field;
  int64_t ModelConfig::*value;
  int64_t max;
};

constexpr Bound kBounds[] = {
    {"hidden_size", &ModelConfig::hidden_size, int64_t{1} << 20},
    {"intermediate_size", &ModelConfig::intermediate_size, int64_t{1} << 22},
    {"num_layers", &ModelConfig::num_layers, 4096},
    {"num_heads", &ModelConfig::num_heads, 4096},
    {"num_kv_heads", &ModelConfig::num_kv_heads, 4096},
    {"head_dim", &ModelConfig::head_dim, 512},
    {"vocab_size", &ModelConfig::vocab_size, kMaxVocabSize},
    {"context_length", &ModelConfig::context_length, int64_t{1} << 26},
};

absl::Status CheckPositive(const char* field, float value) {
  if (std::isfinite(value) && value > 0.0f) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; a finite number above 0 is expected"));
}

absl::Status CheckRopeScaling(const RopeScaling& scaling, int64_t head_dim) {
  if (scaling.type == RopeScaling::Type::kNone) return absl::OkStatus();
  if (scaling.type == RopeScaling::Type::kFactors) {
    if (static_cast<int64_t>(scaling.factors.size()) != head_dim / 2) {
      return absl::InvalidArgumentError(absl::StrCat("rope_scaling holds ", scaling.factors.size(),
                                                     " factors; head_dim / 2 (", head_dim / 2,
                                                     ") are expected"));
    }
    for (float factor : scaling.factors) {
      PENSTOCK_RETURN_IF_ERROR(CheckPositive("rope_scaling.factors", factor));
    }
    return absl::OkStatus();
  }
  PENSTOCK_RETURN_IF_ERROR(CheckPositive("rope_scaling.factor", scaling.factor));
  if (scaling.type == RopeScaling::Type::kLinear) return absl::OkStatus();
  PENSTOCK_RETURN_IF_ERROR(CheckPositive("rope_scaling.low_freq_factor", scaling.low_freq_factor));
  PENSTOCK_RETURN_IF_ERROR(
      CheckPositive("rope_scaling.high_freq_factor", scaling.high_freq_factor));
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    return absl::InvalidArgumentError(
        absl::StrCat("rope_scaling.high_freq_factor is ", scaling.high_freq_factor,
                     "; more than low_freq_factor (", scaling.low_freq_factor, ") is expected"));
  }
  if (scaling.original_context < 1) {
    return absl::InvalidArgumentError(absl::StrCat("rope_scaling.original_context is ",
                                                   scaling.original_context,
                                                   "; a number of positions above 0 is expected"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const ModelConfig& config) {
  for (const Bound& bound : kBounds) {
    const int64_t value = config.*bound.value;
    if (value < 1 || value > bound.max) {
      return absl::InvalidArgumentError(
          absl::StrCat(bound.field, " is ", value, "; 1 to ", bound.max, " is expected"));
    }
  }
  if (config.num_heads % config.num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("num_heads is ", config.num_heads,
                                                   "; a multiple of num_kv_heads (",
                                                   config.num_kv_heads, ") is expected"));
  }
  if (config.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "head_dim is ", config.head_dim, "; an even number is expected, for RoPE turns pairs"));
  }
  if (config.sliding_window < 0) {
    return absl::InvalidArgumentError(absl::StrCat("sliding_window is ", config.sliding_window,
                                                   "; 0 (none) or a number of positions is "
                                                   "expected"));
  }
  PENSTOCK_RETURN_IF_ERROR(CheckRopeScaling(config.rope_scaling, config.head_dim));
  PENSTOCK_RETURN_IF_ERROR(CheckPositive("rms_norm_eps", config.rms_norm_eps));
  return CheckPositive("rope_theta", config.rope_theta);
}

}  // namespace penstock
