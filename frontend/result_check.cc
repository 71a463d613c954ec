#include "frontend/result_check.h"

#include <algorithm>
#include <cmath>

namespace penstock {
namespace {

absl::Status CheckNumber(const StepPlan& plan, const StepResult& result) {
  if (result.number == plan.number && result.epoch == plan.epoch) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("it is of plan ", result.number, ", epoch ", result.epoch));
}

absl::Status Describe(const absl::Status& status, const StepPlan& plan) {
  return Annotate(
      status, absl::StrCat("the stage's result of plan ", plan.number, " does not fit the plan"));
}

}  // namespace

absl::Status ResultCheck::CheckDone(const StepPlan& plan, const StepResult& result) {
  absl::Status fits = CheckNumber(plan, result);
  if (fits.ok() && !(result.samples.empty() && result.prompt_logprobs.empty())) {
    fits = absl::InternalError("only the last stage samples");
  }
  return Describe(fits, plan);
}

absl::Status ResultCheck::Check(const StepPlan& plan, const StepResult& result) {
  for (const Admission& admission : plan.admissions) {
    Slot& slot = slots_[admission.slot];
    slot = Slot();
    slot.generation = admission.generation;
    slot.top_sampled = admission.sampling.logprobs;
    slot.top_prompt = admission.sampling.prompt_logprobs;
    slot.stop_ids = admission.sampling.stop_ids;
  }
  absl::Status fits = CheckNumber(plan, result);
  if (fits.ok()) fits = CheckSamples(plan, result);
  if (fits.ok()) fits = CheckPrompts(plan, result);
  return Describe(fits, plan);
}

// One sample, and a possible one, for every row that asked for one, and no other. A void one only
// where an earlier result has ended the sequence: elsewhere its token would be lost.
absl::Status ResultCheck::CheckSamples(const StepPlan& plan, const StepResult& result) {
  absl::flat_hash_map<int32_t, const PlanRow*> asked;  // by slot
  for (const PlanRow& row : plan.rows) {
    if (row.sample) asked.emplace(row.slot, &row);
  }
  for (const SampledToken& sample : result.samples) {
    const auto found = asked.find(sample.slot);
    if (found == asked.end()) {
      return absl::InternalError(absl::StrCat("a second or unasked sample of slot ", sample.slot));
    }
    const PlanRow& row = *found->second;
    const int64_t position = row.position + static_cast<int64_t>(row.tokens.size());
    if (sample.generation != row.generation || sample.position != position) {
      return absl::InternalError(absl::StrCat("slot ", sample.slot, " answers generation ",
                                              sample.generation, ", position ", sample.position,
                                              " instead of ", row.generation, ", ", position));
    }
    Slot& slot = slots_[sample.slot];
    PENSTOCK_RETURN_IF_ERROR(
        CheckTop({sample.token, sample.logprob}, sample.top, slot.top_sampled));
    if (sample.token == kVoidToken && !slot.ended) {
      return absl::InternalError(absl::StrCat("the sample of slot ", sample.slot, ", position ",
                                              position, " is void and its sequence goes on"));
    }
    slot.ended = slot.ended || sample.token == kNoToken ||
                 std::binary_search(slot.stop_ids.begin(), slot.stop_ids.end(), sample.token);
    asked.erase(found);
  }
  if (!asked.empty()) {
    return absl::InternalError(absl::StrCat(asked.size(), " samples are missing"));
  }
  return absl::OkStatus();
}

// What follows of each target, in the order of the plan's rows and targets, and nothing else.
absl::Status ResultCheck::CheckPrompts(const StepPlan& plan, const StepResult& result) {
  size_t next = 0;
  for (const PlanRow& row : plan.rows) {
    if (row.targets.empty()) continue;
    Slot& slot = slots_[row.slot];
    for (size_t i = 0; i < row.targets.size(); ++i, ++next) {
      if (next == result.prompt_logprobs.size()) {
        return absl::InternalError("log-probabilities of a prompt are missing");
      }
      const PromptLogprob& told = result.prompt_logprobs[next];
      const int64_t position = row.position + 1 + static_cast<int64_t>(i);
      const bool fits = told.slot == row.slot && told.generation == row.generation &&
                        told.position == position &&
                        (told.token.token == row.targets[i] || told.token.token == kNoToken);
      if (!fits) {
        return absl::InternalError(absl::StrCat(
            "a prompt's log-probability is of token ", told.token.token, " of slot ", told.slot,
            ", generation ", told.generation, ", position ", told.position, " instead of ",
            row.targets[i], " of ", row.slot, ", ", row.generation, ", ", position));
      }
      PENSTOCK_RETURN_IF_ERROR(CheckTop(told.token, told.top, slot.top_prompt));
      slot.ended = slot.ended || told.token.token == kNoToken;
    }
  }
  if (next != result.prompt_logprobs.size()) {
    return absl::InternalError("it tells log-probabilities of a prompt that were not asked for");
  }
  return absl::OkStatus();
}

// Tokens of the vocabulary, as many as were asked for or there are; of a failed or void row none.
absl::Status ResultCheck::CheckTop(const TokenLogprob& token, const std::vector<TokenLogprob>& top,
                                   int32_t count) const {
  const auto check = [this](const TokenLogprob& one) -> absl::Status {
    if (one.token < 0 || one.token >= vocab_size_) {
      return absl::InternalError(
          absl::StrCat("token ", one.token, " is not in the vocabulary of ", vocab_size_));
    }
    if (std::isnan(one.logprob)) {
      return absl::InternalError(
          absl::StrCat("the log-probability of token ", one.token, " is not a number"));
    }
    return absl::OkStatus();
  };
  const bool none = token.token == kNoToken || token.token == kVoidToken;
  if (!none) PENSTOCK_RETURN_IF_ERROR(check(token));
  const int64_t expected = none ? 0 : std::min<int64_t>(std::max(count, 0), vocab_size_);
  if (static_cast<int64_t>(top.size()) != expected) {
    return absl::InternalError(
        absl::StrCat(top.size(), " likeliest tokens are told instead of ", expected));
  }
  for (const TokenLogprob& one : top) PENSTOCK_RETURN_IF_ERROR(check(one));
  return absl::OkStatus();
}

}  // namespace penstock
