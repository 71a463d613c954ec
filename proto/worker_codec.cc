#include "proto/worker_codec.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "proto/range_check.h"

namespace penstock {
namespace {

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

absl::StatusOr<PlanRow> DecodeRow(const worker::v1::PlanRow& message) {
  RangeCheck check("PlanRow");
  check.Integer("slot", message.slot(), 0, kMaxSequences - 1);
  check.Integer("position", message.position(), 0, kMaxPosition);
  check.Integer("tokens.size", message.tokens_size(), 1, kMaxStepTokens);
  if (message.token_from() != 0) {
    check.Integer("tokens.size", message.tokens_size(), 1, 1);
    for (const int32_t token : message.tokens()) {
      check.Integer("tokens", token, kNoToken, kNoToken);
    }
  } else {
    for (const int32_t token : message.tokens()) check.Integer("tokens", token, 0, INT32_MAX);
  }
  for (const int32_t block : message.blocks()) check.Integer("blocks", block, 0, INT32_MAX);
  check.Integer("targets.size", message.targets_size(), 0, message.tokens_size());
  for (const int32_t token : message.targets()) check.Integer("targets", token, 0, INT32_MAX);
  check.Integer("mask", message.mask(), 0, INT32_MAX);
  check.Integer("num_drafts", message.num_drafts(), 0, message.tokens_size());
  PENSTOCK_RETURN_IF_ERROR(check.status());
  PlanRow row;
  row.slot = message.slot();
  row.generation = message.generation();
  row.position = message.position();
  row.tokens.assign(message.tokens().begin(), message.tokens().end());
  row.blocks.assign(message.blocks().begin(), message.blocks().end());
  row.sample = message.sample();
  row.targets.assign(message.targets().begin(), message.targets().end());
  row.token_from = message.token_from();
  row.mask = message.mask() - 1;
  row.num_drafts = message.num_drafts();
  return row;
}

}  // namespace

void EncodeStepPlan(const StepPlan& plan, worker::v1::StepPlan* message) {
  message->set_number(plan.number);
  message->set_epoch(plan.epoch);
  message->set_limit_ns(plan.limit_ns);
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
    to->set_token_from(row.token_from);
    to->set_mask(row.mask + 1);
    to->set_num_drafts(row.num_drafts);
  }
}

absl::StatusOr<StepPlan> DecodeStepPlan(const worker::v1::StepPlan& message) {
  StepPlan plan;
  plan.number = message.number();
  plan.epoch = message.epoch();
  plan.limit_ns = message.limit_ns();
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
  check.Integer("limit_ns", plan.limit_ns, 0, INT64_MAX);
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
  message->set_start_ns(result.times.start_ns);
  message->set_compute_ns(result.times.compute_ns);
  message->set_wait_plan_ns(result.times.wait_plan_ns);
  message->set_wait_input_ns(result.times.wait_input_ns);
  message->set_send_ns(result.times.send_ns);
}

absl::StatusOr<StepResult> DecodeStepResult(const worker::v1::StepResult& message) {
  RangeCheck check("StepResult");
  check.Integer("start_ns", message.start_ns(), 0, INT64_MAX);
  check.Integer("compute_ns", message.compute_ns(), 0, INT64_MAX);
  check.Integer("wait_plan_ns", message.wait_plan_ns(), 0, INT64_MAX);
  check.Integer("wait_input_ns", message.wait_input_ns(), 0, INT64_MAX);
  check.Integer("send_ns", message.send_ns(), 0, INT64_MAX);
  StepResult result;
  result.number = message.number();
  result.epoch = message.epoch();
  result.times = {message.start_ns(), message.compute_ns(), message.wait_plan_ns(),
                  message.wait_input_ns(), message.send_ns()};
  result.samples.reserve(static_cast<size_t>(message.samples_size()));
  for (const worker::v1::SampledToken& sample : message.samples()) {
    check.Integer("slot", sample.slot(), 0, kMaxSequences - 1);
    check.Integer("position", sample.position(), 0, kMaxPosition);
    check.Integer("token", sample.token(), kVoidToken, INT32_MAX);
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

}  // namespace penstock
