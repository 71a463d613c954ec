#include "proto/worker_codec.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>

#include "core/base/check.h"

namespace penstock {
namespace {

// Far above any real setting, and far below what could overflow a product of two.
constexpr int64_t kMaxStepTokens = 1 << 20;
constexpr int64_t kMaxSequences = 1 << 20;
constexpr int64_t kMaxThreads = 4096;
constexpr int64_t kMaxPosition = int64_t{1} << 40;
constexpr int64_t kMaxBytes = int64_t{1} << 50;

// The first field out of its range, kept until status() is asked for.
class RangeCheck {
 public:
  explicit RangeCheck(std::string_view message) : message_(message) {}

  void Integer(std::string_view field, int64_t value, int64_t low, int64_t high) {
    if (status_.ok() && (value < low || value > high)) {
      status_ = absl::InvalidArgumentError(absl::StrCat(Abs(message_), ".", Abs(field), " is ",
                                                        value, ", not in ", low, " to ", high));
    }
  }
  // NaN is in no range.
  void Real(std::string_view field, float value, float low, float high) {
    if (status_.ok() && !(value >= low && value <= high)) {
      status_ = absl::InvalidArgumentError(absl::StrCat(Abs(message_), ".", Abs(field), " is ",
                                                        value, ", not in ", low, " to ", high));
    }
  }
  const absl::Status& status() const { return status_; }

 private:
  std::string_view message_;
  absl::Status status_;
};

absl::StatusOr<Admission> DecodeAdmission(const worker::v1::Admission& message) {
  const worker::v1::SamplingParams& sampling = message.sampling();
  RangeCheck check("Admission");
  check.Integer("slot", message.slot(), 0, kMaxSequences - 1);
  check.Real("temperature", sampling.temperature(), 0.0f, 1e6f);
  check.Integer("top_k", sampling.top_k(), 0, INT32_MAX);
  check.Real("top_p", sampling.top_p(), std::numeric_limits<float>::denorm_min(), 1.0f);
  check.Integer("choice", sampling.choice(), 0, INT32_MAX);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  Admission admission;
  admission.slot = message.slot();
  admission.generation = message.generation();
  admission.sampling = {sampling.temperature(), sampling.top_k(), sampling.top_p(), sampling.seed(),
                        sampling.choice()};
  return admission;
}

absl::StatusOr<PlanRow> DecodeRow(const worker::v1::PlanRow& message) {
  RangeCheck check("PlanRow");
  check.Integer("slot", message.slot(), 0, kMaxSequences - 1);
  check.Integer("position", message.position(), 0, kMaxPosition);
  check.Integer("tokens.size", message.tokens_size(), 1, kMaxStepTokens);
  for (const int32_t token : message.tokens()) check.Integer("tokens", token, 0, INT32_MAX);
  for (const int32_t block : message.blocks()) check.Integer("blocks", block, 0, INT32_MAX);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  PlanRow row;
  row.slot = message.slot();
  row.generation = message.generation();
  row.position = message.position();
  row.tokens.assign(message.tokens().begin(), message.tokens().end());
  row.blocks.assign(message.blocks().begin(), message.blocks().end());
  row.sample = message.sample();
  return row;
}

}  // namespace

void EncodeStageOptions(const StageOptions& options, worker::v1::LoadRequest* message) {
  message->set_model(options.model);
  message->set_kv_memory_bytes(options.kv_memory_bytes);
  message->set_max_step_tokens(options.max_step_tokens);
  message->set_max_sequences(options.max_sequences);
  message->set_threads(options.threads);
  message->set_prefill_attention(options.prefill_attention == PrefillAttention::kPadded
                                     ? worker::v1::PREFILL_ATTENTION_PADDED
                                     : worker::v1::PREFILL_ATTENTION_FLASH);
  message->set_padded_memory_bytes(options.padded_memory_bytes);
}

absl::StatusOr<StageOptions> DecodeStageOptions(const worker::v1::LoadRequest& message) {
  RangeCheck check("LoadRequest");
  check.Integer("kv_memory_bytes", message.kv_memory_bytes(), 0, kMaxBytes);
  check.Integer("max_step_tokens", message.max_step_tokens(), 1, kMaxStepTokens);
  check.Integer("max_sequences", message.max_sequences(), 1, kMaxSequences);
  check.Integer("threads", message.threads(), 0, kMaxThreads);
  check.Integer("prefill_attention", static_cast<int>(message.prefill_attention()),
                static_cast<int>(worker::v1::PREFILL_ATTENTION_FLASH),
                static_cast<int>(worker::v1::PREFILL_ATTENTION_PADDED));
  check.Integer("padded_memory_bytes", message.padded_memory_bytes(), 0, kMaxBytes);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  StageOptions options;
  options.model = message.model();
  options.kv_memory_bytes = message.kv_memory_bytes();
  options.max_step_tokens = message.max_step_tokens();
  options.max_sequences = message.max_sequences();
  options.threads = message.threads();
  options.prefill_attention = message.prefill_attention() == worker::v1::PREFILL_ATTENTION_PADDED
                                  ? PrefillAttention::kPadded
                                  : PrefillAttention::kFlash;
  options.padded_memory_bytes = message.padded_memory_bytes();
  return options;
}

void EncodeStageInfo(const StageInfo& info, worker::v1::LoadResponse* message) {
  worker::v1::ModelConfig* config = message->mutable_config();
  config->set_architecture(info.config.architecture);
  config->set_name(info.config.name);
  config->set_hidden_size(info.config.hidden_size);
  config->set_intermediate_size(info.config.intermediate_size);
  config->set_num_layers(info.config.num_layers);
  config->set_num_heads(info.config.num_heads);
  config->set_num_kv_heads(info.config.num_kv_heads);
  config->set_head_dim(info.config.head_dim);
  config->set_vocab_size(info.config.vocab_size);
  config->set_context_length(info.config.context_length);
  config->set_rms_norm_eps(info.config.rms_norm_eps);
  config->set_rope_theta(info.config.rope_theta);
  config->set_tied_embeddings(info.config.tied_embeddings);
  message->set_num_blocks(info.num_blocks);
  message->set_weight_bytes(info.weight_bytes);
  message->set_load_ns(info.load_ns);
}

absl::StatusOr<StageInfo> DecodeStageInfo(const worker::v1::LoadResponse& message) {
  const worker::v1::ModelConfig& config = message.config();
  StageInfo info;
  info.config.architecture = config.architecture();
  info.config.name = config.name();
  info.config.hidden_size = config.hidden_size();
  info.config.intermediate_size = config.intermediate_size();
  info.config.num_layers = config.num_layers();
  info.config.num_heads = config.num_heads();
  info.config.num_kv_heads = config.num_kv_heads();
  info.config.head_dim = config.head_dim();
  info.config.vocab_size = config.vocab_size();
  info.config.context_length = config.context_length();
  info.config.rms_norm_eps = config.rms_norm_eps();
  info.config.rope_theta = config.rope_theta();
  info.config.tied_embeddings = config.tied_embeddings();
  PENSTOCK_RETURN_IF_ERROR(Annotate(Validate(info.config), "LoadResponse.config"));
  RangeCheck check("LoadResponse");
  check.Integer("num_blocks", message.num_blocks(), 1, INT32_MAX);
  check.Integer("weight_bytes", message.weight_bytes(), 0, kMaxBytes);
  check.Integer("load_ns", message.load_ns(), 0, INT64_MAX);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  info.num_blocks = message.num_blocks();
  info.weight_bytes = message.weight_bytes();
  info.load_ns = message.load_ns();
  return info;
}

void EncodeStepPlan(const StepPlan& plan, worker::v1::StepPlan* message) {
  message->set_number(plan.number);
  message->set_epoch(plan.epoch);
  for (const Admission& admission : plan.admissions) {
    worker::v1::Admission* to = message->add_admissions();
    to->set_slot(admission.slot);
    to->set_generation(admission.generation);
    worker::v1::SamplingParams* sampling = to->mutable_sampling();
    sampling->set_temperature(admission.sampling.temperature);
    sampling->set_top_k(admission.sampling.top_k);
    sampling->set_top_p(admission.sampling.top_p);
    sampling->set_seed(admission.sampling.seed);
    sampling->set_choice(admission.sampling.choice);
  }
  for (const PlanRow& row : plan.rows) {
    worker::v1::PlanRow* to = message->add_rows();
    to->set_slot(row.slot);
    to->set_generation(row.generation);
    to->set_position(row.position);
    to->mutable_tokens()->Add(row.tokens.begin(), row.tokens.end());
    to->mutable_blocks()->Add(row.blocks.begin(), row.blocks.end());
    to->set_sample(row.sample);
  }
}

absl::StatusOr<StepPlan> DecodeStepPlan(const worker::v1::StepPlan& message) {
  StepPlan plan;
  plan.number = message.number();
  plan.epoch = message.epoch();
  plan.admissions.reserve(static_cast<size_t>(message.admissions_size()));
  for (const worker::v1::Admission& from : message.admissions()) {
    PENSTOCK_ASSIGN_OR_RETURN(Admission admission, DecodeAdmission(from));
    plan.admissions.push_back(admission);
  }
  plan.rows.reserve(static_cast<size_t>(message.rows_size()));
  for (const worker::v1::PlanRow& from : message.rows()) {
    PENSTOCK_ASSIGN_OR_RETURN(PlanRow row, DecodeRow(from));
    plan.rows.push_back(std::move(row));
  }
  RangeCheck check("StepPlan");
  check.Integer("tokens of all rows", plan.num_tokens(), 0, kMaxStepTokens);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  return plan;
}

void EncodeStepResult(const StepResult& result, worker::v1::StepResult* message) {
  message->set_number(result.number);
  message->set_epoch(result.epoch);
  for (const SampledToken& sample : result.samples) {
    worker::v1::SampledToken* to = message->add_samples();
    to->set_slot(sample.slot);
    to->set_generation(sample.generation);
    to->set_position(sample.position);
    to->set_token(sample.token);
    to->set_logprob(sample.logprob);
  }
  message->set_compute_ns(result.compute_ns);
}

absl::StatusOr<StepResult> DecodeStepResult(const worker::v1::StepResult& message) {
  RangeCheck check("StepResult");
  check.Integer("compute_ns", message.compute_ns(), 0, INT64_MAX);
  StepResult result;
  result.number = message.number();
  result.epoch = message.epoch();
  result.compute_ns = message.compute_ns();
  result.samples.reserve(static_cast<size_t>(message.samples_size()));
  for (const worker::v1::SampledToken& sample : message.samples()) {
    check.Integer("slot", sample.slot(), 0, kMaxSequences - 1);
    check.Integer("position", sample.position(), 0, kMaxPosition);
    check.Integer("token", sample.token(), 0, INT32_MAX);
    // A log-probability; rounding may leave it a little above 0.
    check.Real("logprob", sample.logprob(), -INFINITY, 1e-3f);
    result.samples.push_back(
        {sample.slot(), sample.generation(), sample.position(), sample.token(), sample.logprob()});
  }
  PENSTOCK_RETURN_IF_ERROR(check.status());
  return result;
}

void EncodeError(const absl::Status& status, worker::v1::Error* message) {
  PENSTOCK_CHECK(!status.ok());
  message->set_code(status.raw_code());
  message->set_message(Message(status));
}

absl::Status DecodeError(const worker::v1::Error& message) {
  const bool known = message.code() >= static_cast<int>(absl::StatusCode::kCancelled) &&
                     message.code() <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  const auto code =
      known ? static_cast<absl::StatusCode>(message.code()) : absl::StatusCode::kInternal;
  return {code, message.message()};
}

}  // namespace penstock
