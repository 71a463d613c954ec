#include "worker/plan_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/base/kv_block.h"

namespace penstock {
namespace {

// What is wrong with one part of a plan, told of the whole.
class PartCheck {
 public:
  PartCheck(std::string part, const PlanLimits& limits) : part_(std::move(part)), limits_(limits) {}

  absl::Status Refuse(std::string_view what) const {
    return absl::FailedPreconditionError(absl::StrCat("the plan's ", part_, " ", Abs(what)));
  }
  absl::Status Tokens(std::string_view verb, std::span<const int32_t> tokens) const {
    for (int32_t token : tokens) {
      if (token < 0 || token >= limits_.vocab_size) {
        return Refuse(
            absl::StrCat(Abs(verb), " token ", token, " of a vocabulary of ", limits_.vocab_size));
      }
    }
    return absl::OkStatus();
  }
  absl::Status Within(std::string_view name, int64_t value, int64_t low, int64_t high) const {
    if (value >= low && value <= high) return absl::OkStatus();
    return Refuse(absl::StrCat("has ", Abs(name), " ", value, ", not in ", low, " to ", high));
  }
  // NaN is not.
  absl::Status Finite(std::string_view name, float value) const {
    if (std::isfinite(value)) return absl::OkStatus();
    return Refuse(absl::StrCat("has ", Abs(name), " ", value, ", which is not finite"));
  }

 private:
  const std::string part_;
  const PlanLimits& limits_;
};

// Strictly upwards, so that each is there once.
template <typename List, typename Key>
bool IsSorted(const List& list, const Key& key) {
  for (size_t i = 1; i < list.size(); ++i) {
    if (key(list[i - 1]) >= key(list[i])) return false;
  }
  return true;
}

absl::Status CheckSampling(const SamplingParams& sampling, const PartCheck& check) {
  PENSTOCK_RETURN_IF_ERROR(check.Within("logprobs", sampling.logprobs, 0, kMaxLogprobs));
  PENSTOCK_RETURN_IF_ERROR(
      check.Within("prompt_logprobs", sampling.prompt_logprobs, -1, kMaxLogprobs));
  PENSTOCK_RETURN_IF_ERROR(check.Finite("temperature", sampling.temperature));
  PENSTOCK_RETURN_IF_ERROR(check.Finite("repetition_penalty", sampling.repetition_penalty));
  PENSTOCK_RETURN_IF_ERROR(check.Finite("presence_penalty", sampling.presence_penalty));
  PENSTOCK_RETURN_IF_ERROR(check.Finite("frequency_penalty", sampling.frequency_penalty));
  if (!(sampling.temperature >= 0.0f)) return check.Refuse("has a temperature below 0");
  if (!(sampling.repetition_penalty > 0.0f)) {
    return check.Refuse("has a repetition_penalty that is not above 0");
  }
  if (!(sampling.top_p > 0.0f && sampling.top_p <= 1.0f)) {
    return check.Refuse("has a top_p that is not above 0 and at most 1");
  }
  if (!(sampling.min_p >= 0.0f && sampling.min_p <= 1.0f)) {
    return check.Refuse("has a min_p that is not in 0 to 1");
  }
  PENSTOCK_RETURN_IF_ERROR(check.Within("top_k", sampling.top_k, 0, INT32_MAX));
  PENSTOCK_RETURN_IF_ERROR(check.Within("min_tokens", sampling.min_tokens, 0, INT64_MAX));
  PENSTOCK_RETURN_IF_ERROR(check.Within("choice", sampling.choice, 0, INT32_MAX));
  for (const LogitBias& bias : sampling.logit_bias) {
    PENSTOCK_RETURN_IF_ERROR(check.Tokens("has a logit_bias of", {&bias.token, 1}));
    PENSTOCK_RETURN_IF_ERROR(check.Finite("a logit_bias of", bias.bias));
  }
  if (!IsSorted(sampling.logit_bias, [](const LogitBias& bias) { return bias.token; })) {
    return check.Refuse("has a logit_bias that is not sorted, each token once");
  }
  PENSTOCK_RETURN_IF_ERROR(check.Tokens("has as stop id", sampling.stop_ids));
  if (!IsSorted(sampling.stop_ids, [](int32_t id) { return id; })) {
    return check.Refuse("has stop ids that are not sorted, each once");
  }
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    if (word.empty()) return check.Refuse("has a bad word without tokens");
    PENSTOCK_RETURN_IF_ERROR(check.Tokens("has in a bad word", word));
  }
  return absl::OkStatus();
}

absl::Status CheckAdmission(const Admission& admission, const PlanLimits& limits) {
  if (admission.slot < 0 || admission.slot >= limits.max_sequences) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the plan admits a sequence to slot ", admission.slot, " of ", limits.max_sequences));
  }
  const PartCheck check(absl::StrCat("admission to slot ", admission.slot), limits);
  PENSTOCK_RETURN_IF_ERROR(
      check.Within("prompt_tokens", admission.prompt_tokens, 0, limits.context_length));
  const auto known = static_cast<int64_t>(admission.history.size());
  if (!admission.sampling.needs_history() && known > 0) {
    return check.Refuse("brings a history that its sampling does not need");
  }
  if (admission.sampling.needs_history()) {
    PENSTOCK_RETURN_IF_ERROR(check.Within("a history of", known,
                                          std::max<int64_t>(admission.prompt_tokens, 1),
                                          limits.context_length));
  }
  PENSTOCK_RETURN_IF_ERROR(check.Tokens("has in its history", admission.history));
  return CheckSampling(admission.sampling, check);
}

absl::Status CheckRow(const PlanRow& row, uint64_t number, const PlanLimits& limits) {
  const PartCheck check(absl::StrCat("row of slot ", row.slot, " at position ", row.position),
                        limits);
  const auto count = static_cast<int64_t>(row.tokens.size());
  if (count == 0) return check.Refuse("feeds no token");
  if (row.position < 0 || row.position > limits.context_length - count) {
    return check.Refuse(
        absl::StrCat("feeds ", count, " tokens beyond the context of ", limits.context_length));
  }
  const int64_t need = BlocksFor(row.position + count);
  if (static_cast<int64_t>(row.blocks.size()) < need) {
    return check.Refuse(absl::StrCat("has ", row.blocks.size(), " KV blocks but needs ", need));
  }
  for (int32_t block : row.blocks) {
    if (block < 0 || block >= limits.num_blocks) {
      return check.Refuse(absl::StrCat("names KV block ", block, " of ", limits.num_blocks));
    }
  }
  if (row.token_from == 0) {
    PENSTOCK_RETURN_IF_ERROR(check.Tokens("feeds", row.tokens));
  } else if (count != 1 || row.tokens[0] != kNoToken) {
    return check.Refuse(absl::StrCat("feeds the token of plan ", row.token_from,
                                     " and others beside it, or in its place"));
  } else if (!row.targets.empty()) {
    return check.Refuse(
        absl::StrCat("feeds the token of plan ", row.token_from, " and has targets"));
  } else if (row.token_from >= number) {
    return check.Refuse(
        absl::StrCat("feeds the token of plan ", row.token_from, ", but is of plan ", number));
  }
  if (row.mask != -1 || row.num_drafts != 0) {
    return absl::UnimplementedError(absl::StrCat(
        "the plan's row of slot ", row.slot, " has mask ", row.mask, " and ", row.num_drafts,
        " drafts, which this version does not know: use front end and workers of one version"));
  }
  const auto targets = static_cast<int64_t>(row.targets.size());
  if (targets != 0 && targets != count && targets != count - 1) {
    return check.Refuse(absl::StrCat("has ", targets, " targets for ", count, " tokens"));
  }
  return check.Tokens("has as target", row.targets);
}

}  // namespace

absl::Status CheckPlan(const StepPlan& plan, const PlanLimits& limits) {
  const auto num_rows = static_cast<int64_t>(plan.rows.size());
  if (num_rows == 0 || num_rows > limits.max_sequences) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the plan has ", num_rows, " rows; this stage takes 1 to ", limits.max_sequences));
  }
  for (const Admission& admission : plan.admissions) {
    PENSTOCK_RETURN_IF_ERROR(CheckAdmission(admission, limits));
  }
  for (const PlanRow& row : plan.rows) {
    PENSTOCK_RETURN_IF_ERROR(CheckRow(row, plan.number, limits));
  }
  const int64_t num_tokens = plan.num_tokens();
  if (num_tokens > limits.max_tokens) {
    return absl::FailedPreconditionError(
        absl::StrCat("the plan has ", num_tokens, " tokens; this stage takes ", limits.max_tokens));
  }
  return absl::OkStatus();
}

absl::Status PlanOrder::Take(const StepPlan& plan) {
  if (plan.epoch != epoch_) {
    return absl::FailedPreconditionError(absl::StrCat("plan ", plan.number, " is of epoch ",
                                                      plan.epoch, ", but this is epoch ", epoch_));
  }
  if (plan.number != next_) {
    return absl::FailedPreconditionError(
        absl::StrCat("plan ", plan.number, " comes where plan ", next_, " is expected"));
  }
  for (const PlanRow& row : plan.rows) {
    if (row.token_from == 0) continue;
    const bool is_known = row.token_from >= first_ && row.token_from < plan.number &&
                          plan.number - row.token_from <= static_cast<uint64_t>(plans_ahead_);
    if (is_known) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("the row of slot ", row.slot, " in plan ", plan.number,
                     " feeds the token of plan ", row.token_from, "; the epoch began with plan ",
                     first_, ", and this stage keeps tokens of ", plans_ahead_, " plans"));
  }
  ++next_;
  return absl::OkStatus();
}

}  // namespace penstock
