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
constexpr float kMaxPenalty = 1e6f;

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

void EncodeSampling(const SamplingParams& sampling, worker::v1::SamplingParams* to) {
  to->set_temperature(sampling.temperature);
  to->set_top_k(sampling.top_k);
  to->set_top_p(sampling.top_p);
  to->set_min_p(sampling.min_p);
  to->set_repetition_penalty(sampling.repetition_penalty);
  to->set_presence_penalty(sampling.presence_penalty);
  to->set_frequency_penalty(sampling.frequency_penalty);
  for (const LogitBias& bias : sampling.logit_bias) {
    worker::v1::LogitBias* each = to->add_logit_bias();
    each->set_token(bias.token);
    each->set_bias(bias.bias);
  }
  to->mutable_stop_ids()->Add(sampling.stop_ids.begin(), sampling.stop_ids.end());
  to->set_min_tokens(sampling.min_tokens);
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    to->add_bad_words()->mutable_tokens()->Add(word.begin(), word.end());
  }
  to->set_logprobs(sampling.logprobs);
  to->set_prompt_logprobs(sampling.prompt_logprobs);
  to->set_seed(sampling.seed);
  to->set_choice(sampling.choice);
}

absl::StatusOr<SamplingParams> DecodeSampling(const worker::v1::SamplingParams& from) {
  RangeCheck check("SamplingParams");
  check.Real("temperature", from.temperature(), 0.0f, 1e6f);
  check.Integer("top_k", from.top_k(), 0, INT32_MAX);
  check.Real("top_p", from.top_p(), std::numeric_limits<float>::denorm_min(), 1.0f);
  check.Real("min_p", from.min_p(), 0.0f, 1.0f);
  check.Real("repetition_penalty", from.repetition_penalty(),
             std::numeric_limits<float>::denorm_min(), kMaxPenalty);
  check.Real("presence_penalty", from.presence_penalty(), -kMaxPenalty, kMaxPenalty);
  check.Real("frequency_penalty", from.frequency_penalty(), -kMaxPenalty, kMaxPenalty);
  for (const worker::v1::LogitBias& bias : from.logit_bias()) {
    check.Integer("logit_bias.token", bias.token(), 0, INT32_MAX);
    check.Real("logit_bias.bias", bias.bias(), -kMaxPenalty, kMaxPenalty);
  }
  for (const int32_t id : from.stop_ids()) check.Integer("stop_ids", id, 0, INT32_MAX);
  check.Integer("min_tokens", from.min_tokens(), 0, kMaxPosition);
  for (const worker::v1::Tokens& word : from.bad_words()) {
    check.Integer("bad_words.size", word.tokens_size(), 1, kMaxStepTokens);
    for (const int32_t id : word.tokens()) check.Integer("bad_words", id, 0, INT32_MAX);
  }
  check.Integer("logprobs", from.logprobs(), 0, INT32_MAX);
  check.Integer("prompt_logprobs", from.prompt_logprobs(), -1, INT32_MAX);
  check.Integer("choice", from.choice(), 0, INT32_MAX);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  SamplingParams sampling;
  sampling.temperature = from.temperature();
  sampling.top_k = from.top_k();
  sampling.top_p = from.top_p();
  sampling.min_p = from.min_p();
  sampling.repetition_penalty = from.repetition_penalty();
  sampling.presence_penalty = from.presence_penalty();
  sampling.frequency_penalty = from.frequency_penalty();
  for (const worker::v1::LogitBias& bias : from.logit_bias()) {
    sampling.logit_bias.push_back({bias.token(), bias.bias()});
  }
  sampling.stop_ids.assign(from.stop_ids().begin(), from.stop_ids().end());
  sampling.min_tokens = from.min_tokens();
  for (const worker::v1::Tokens& word : from.bad_words()) {
    sampling.bad_words.emplace_back(word.tokens().begin(), word.tokens().end());
  }
  sampling.logprobs = from.logprobs();
  sampling.prompt_logprobs = from.prompt_logprobs();
  sampling.seed = from.seed();
  sampling.choice = from.choice();
  return sampling;
}

absl::StatusOr<Admission> DecodeAdmission(const worker::v1::Admission& message) {
  RangeCheck check("Admission");
  check.Integer("slot", message.slot(), 0, kMaxSequences - 1);
  check.Integer("prompt_tokens", message.prompt_tokens(), 0, kMaxPosition);
  for (const int32_t token : message.history()) check.Integer("history", token, 0, INT32_MAX);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  Admission admission;
  admission.slot = message.slot();
  admission.generation = message.generation();
  PENSTOCK_ASSIGN_OR_RETURN(admission.sampling, DecodeSampling(message.sampling()));
  admission.prompt_tokens = message.prompt_tokens();
  admission.history.assign(message.history().begin(), message.history().end());
  return admission;
}

void EncodeLogprob(const TokenLogprob& from, worker::v1::TokenLogprob* to) {
  to->set_token(from.token);
  to->set_logprob(from.logprob);
}

// Log-probabilities; rounding may leave one a little above 0.
constexpr float kMaxLogprob = 1e-3f;

std::vector<TokenLogprob> DecodeTop(
    const google::protobuf::RepeatedPtrField<worker::v1::TokenLogprob>& from, RangeCheck* check) {
  std::vector<TokenLogprob> top;
  top.reserve(static_cast<size_t>(from.size()));
  for (const worker::v1::TokenLogprob& each : from) {
    check->Integer("top.token", each.token(), 0, INT32_MAX);
    check->Real("top.logprob", each.logprob(), -INFINITY, kMaxLogprob);
    top.push_back({each.token(), each.logprob()});
  }
  return top;
}

void EncodeRopeScaling(const RopeScaling& from, worker::v1::RopeScaling* to) {
  switch (from.type) {
    case RopeScaling::Type::kNone:
      to->set_type(worker::v1::RopeScaling::NONE);
      break;
    case RopeScaling::Type::kLinear:
      to->set_type(worker::v1::RopeScaling::LINEAR);
      break;
    case RopeScaling::Type::kLlama3:
      to->set_type(worker::v1::RopeScaling::LLAMA3);
      break;
    case RopeScaling::Type::kFactors:
      to->set_type(worker::v1::RopeScaling::FACTORS);
      break;
  }
  to->set_factor(from.factor);
  to->set_low_freq_factor(from.low_freq_factor);
  to->set_high_freq_factor(from.high_freq_factor);
  to->set_original_context(from.original_context);
  to->mutable_factors()->Add(from.factors.begin(), from.factors.end());
}

// The numbers are Validate's to check.
absl::StatusOr<RopeScaling> DecodeRopeScaling(const worker::v1::RopeScaling& from) {
  RangeCheck check("RopeScaling");
  check.Integer("type", static_cast<int>(from.type()),
                static_cast<int>(worker::v1::RopeScaling::NONE),
                static_cast<int>(worker::v1::RopeScaling::FACTORS));
  PENSTOCK_RETURN_IF_ERROR(check.status());
  RopeScaling scaling;
  if (from.type() == worker::v1::RopeScaling::LINEAR) scaling.type = RopeScaling::Type::kLinear;
  if (from.type() == worker::v1::RopeScaling::LLAMA3) scaling.type = RopeScaling::Type::kLlama3;
  if (from.type() == worker::v1::RopeScaling::FACTORS) scaling.type = RopeScaling::Type::kFactors;
  scaling.factor = from.factor();
  scaling.low_freq_factor = from.low_freq_factor();
  scaling.high_freq_factor = from.high_freq_factor();
  scaling.original_context = from.original_context();
  scaling.factors.assign(from.factors().begin(), from.factors().end());
  return scaling;
}

absl::StatusOr<PlanRow> DecodeRow(const worker::v1::PlanRow& message) {
  RangeCheck check("PlanRow");
  check.Integer("slot", message.slot(), 0, kMaxSequences - 1);
  check.Integer("position", message.position(), 0, kMaxPosition);
  check.Integer("tokens.size", message.tokens_size(), 1, kMaxStepTokens);
  for (const int32_t token : message.tokens()) check.Integer("tokens", token, 0, INT32_MAX);
  for (const int32_t block : message.blocks()) check.Integer("blocks", block, 0, INT32_MAX);
  check.Integer("targets.size", message.targets_size(), 0, message.tokens_size());
  for (const int32_t token : message.targets()) check.Integer("targets", token, 0, INT32_MAX);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  PlanRow row;
  row.slot = message.slot();
  row.generation = message.generation();
  row.position = message.position();
  row.tokens.assign(message.tokens().begin(), message.tokens().end());
  row.blocks.assign(message.blocks().begin(), message.blocks().end());
  row.sample = message.sample();
  row.targets.assign(message.targets().begin(), message.targets().end());
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
  message->set_check_file(options.check_file);
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
  options.check_file = message.check_file();
  return options;
}

void EncodeLoadProgress(const LoadProgress& progress, worker::v1::LoadProgress* message) {
  message->set_done(progress.done);
  message->set_total(progress.total);
  message->set_tensor(progress.tensor);
}

absl::StatusOr<LoadProgress> DecodeLoadProgress(const worker::v1::LoadProgress& message) {
  RangeCheck check("LoadProgress");
  check.Integer("total", message.total(), 0, kMaxBytes);
  check.Integer("done", message.done(), 0, message.total());
  PENSTOCK_RETURN_IF_ERROR(check.status());
  return LoadProgress{message.done(), message.total(), message.tensor()};
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
  config->set_sliding_window(info.config.sliding_window);
  config->set_qkv_bias(info.config.qkv_bias);
  config->set_qk_norm(info.config.qk_norm);
  EncodeRopeScaling(info.config.rope_scaling, config->mutable_rope_scaling());
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
  info.config.sliding_window = config.sliding_window();
  info.config.qkv_bias = config.qkv_bias();
  info.config.qk_norm = config.qk_norm();
  PENSTOCK_ASSIGN_OR_RETURN(info.config.rope_scaling, DecodeRopeScaling(config.rope_scaling()));
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
    EncodeSampling(admission.sampling, to->mutable_sampling());
    to->set_prompt_tokens(admission.prompt_tokens);
    to->mutable_history()->Add(admission.history.begin(), admission.history.end());
  }
  for (const PlanRow& row : plan.rows) {
    worker::v1::PlanRow* to = message->add_rows();
    to->set_slot(row.slot);
    to->set_generation(row.generation);
    to->set_position(row.position);
    to->mutable_tokens()->Add(row.tokens.begin(), row.tokens.end());
    to->mutable_blocks()->Add(row.blocks.begin(), row.blocks.end());
    to->set_sample(row.sample);
    to->mutable_targets()->Add(row.targets.begin(), row.targets.end());
  }
}

absl::StatusOr<StepPlan> DecodeStepPlan(const worker::v1::StepPlan& message) {
  StepPlan plan;
  plan.number = message.number();
  plan.epoch = message.epoch();
  plan.admissions.reserve(static_cast<size_t>(message.admissions_size()));
  for (const worker::v1::Admission& from : message.admissions()) {
    PENSTOCK_ASSIGN_OR_RETURN(Admission admission, DecodeAdmission(from));
    plan.admissions.push_back(std::move(admission));
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
    for (const TokenLogprob& each : sample.top) EncodeLogprob(each, to->add_top());
  }
  for (const PromptLogprob& each : result.prompt_logprobs) {
    worker::v1::PromptLogprob* to = message->add_prompt_logprobs();
    to->set_slot(each.slot);
    to->set_generation(each.generation);
    to->set_position(each.position);
    EncodeLogprob(each.token, to->mutable_token());
    for (const TokenLogprob& other : each.top) EncodeLogprob(other, to->add_top());
  }
  message->set_compute_ns(result.times.compute_ns);
}

absl::StatusOr<StepResult> DecodeStepResult(const worker::v1::StepResult& message) {
  RangeCheck check("StepResult");
  check.Integer("compute_ns", message.compute_ns(), 0, INT64_MAX);
  StepResult result;
  result.number = message.number();
  result.epoch = message.epoch();
  result.times.compute_ns = message.compute_ns();
  result.samples.reserve(static_cast<size_t>(message.samples_size()));
  for (const worker::v1::SampledToken& sample : message.samples()) {
    check.Integer("slot", sample.slot(), 0, kMaxSequences - 1);
    check.Integer("position", sample.position(), 0, kMaxPosition);
    check.Integer("token", sample.token(), kNoToken, INT32_MAX);
    check.Real("logprob", sample.logprob(), -INFINITY, kMaxLogprob);
    result.samples.push_back({sample.slot(), sample.generation(), sample.position(), sample.token(),
                              sample.logprob(), DecodeTop(sample.top(), &check)});
  }
  result.prompt_logprobs.reserve(static_cast<size_t>(message.prompt_logprobs_size()));
  for (const worker::v1::PromptLogprob& from : message.prompt_logprobs()) {
    check.Integer("slot", from.slot(), 0, kMaxSequences - 1);
    check.Integer("position", from.position(), 1, kMaxPosition);
    check.Integer("token", from.token().token(), kNoToken, INT32_MAX);
    check.Real("logprob", from.token().logprob(), -INFINITY, kMaxLogprob);
    result.prompt_logprobs.push_back({from.slot(),
                                      from.generation(),
                                      from.position(),
                                      {from.token().token(), from.token().logprob()},
                                      DecodeTop(from.top(), &check)});
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
