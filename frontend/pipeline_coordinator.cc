#include "frontend/pipeline_coordinator.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/base/check.h"

namespace penstock {

PipelineCoordinator::PipelineCoordinator(std::unique_ptr<StageLink> link) : link_(std::move(link)) {
  link_->SetResultCallback([this](absl::StatusOr<StepResult> result) {
    std::lock_guard<std::mutex> lock(mutex_);
    inbox_.push_back(std::move(result));
    if (wakeup_ != nullptr) wakeup_->Notify();
  });
}

PipelineCoordinator::~PipelineCoordinator() = default;

absl::StatusOr<StageInfo> PipelineCoordinator::Load(const StageOptions& options,
                                                    const StageLink::ProgressCallback& progress) {
  PENSTOCK_ASSIGN_OR_RETURN(StageInfo info, link_->Load(options, progress));
  vocab_size_ = info.config.vocab_size;
  return info;
}

void PipelineCoordinator::SetWakeup(std::shared_ptr<Wakeup> wakeup) {
  PENSTOCK_CHECK(in_flight_.empty());
  std::lock_guard<std::mutex> lock(mutex_);
  wakeup_ = std::move(wakeup);
}

void PipelineCoordinator::Submit(StepPlan plan) {
  PENSTOCK_CHECK(status_.ok());
  PENSTOCK_CHECK_EQ(plan.number, last_number_ + 1);
  last_number_ = plan.number;
  plan.epoch = epoch_;
  in_flight_.push_back(std::move(plan));
  link_->Submit(in_flight_.back());
}

std::optional<PipelineCoordinator::Outcome> PipelineCoordinator::Take() {
  if (in_flight_.empty()) return std::nullopt;
  absl::StatusOr<StepResult> result = StepResult();
  if (!status_.ok()) {
    result = status_;
  } else {
    std::lock_guard<std::mutex> lock(mutex_);
    if (inbox_.empty()) return std::nullopt;
    result = std::move(inbox_.front());
    inbox_.pop_front();
  }
  const StepPlan plan = std::move(in_flight_.front());
  in_flight_.pop_front();
  for (const Admission& admission : plan.admissions) {
    tops_[admission.slot] = {admission.sampling.logprobs, admission.sampling.prompt_logprobs};
  }
  if (result.ok()) {
    if (absl::Status fits = CheckResult(plan, *result); !fits.ok()) result = fits;
  }
  // What else the link reports of this epoch stays in the inbox, unread.
  status_ = result.status();
  return Outcome{plan.number, std::move(result)};
}

absl::Status PipelineCoordinator::CheckResult(const StepPlan& plan,
                                              const StepResult& result) const {
  absl::Status fits;
  if (result.number != plan.number || result.epoch != plan.epoch) {
    fits = absl::InternalError(
        absl::StrCat("it is of plan ", result.number, ", epoch ", result.epoch));
  }
  if (fits.ok()) fits = CheckSamples(plan, result);
  if (fits.ok()) fits = CheckPrompts(plan, result);
  return Annotate(
      fits, absl::StrCat("the stage's result of plan ", plan.number, " does not fit the plan"));
}

// One sample, and a possible one, for every row that asked for one, and no other.
absl::Status PipelineCoordinator::CheckSamples(const StepPlan& plan,
                                               const StepResult& result) const {
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
    const auto counts = tops_.find(sample.slot);
    PENSTOCK_RETURN_IF_ERROR(CheckTop({sample.token, sample.logprob}, sample.top,
                                      counts == tops_.end() ? 0 : counts->second.sampled));
    asked.erase(found);
  }
  if (!asked.empty())
    return absl::InternalError(absl::StrCat(asked.size(), " samples are missing"));
  return absl::OkStatus();
}

// What follows of each target, in the order of the plan's rows and targets, and nothing else.
absl::Status PipelineCoordinator::CheckPrompts(const StepPlan& plan,
                                               const StepResult& result) const {
  size_t next = 0;
  for (const PlanRow& row : plan.rows) {
    const auto counts = tops_.find(row.slot);
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
      PENSTOCK_RETURN_IF_ERROR(
          CheckTop(told.token, told.top, counts == tops_.end() ? 0 : counts->second.prompt));
    }
  }
  if (next != result.prompt_logprobs.size()) {
    return absl::InternalError("it tells log-probabilities of a prompt that were not asked for");
  }
  return absl::OkStatus();
}

// Tokens of the vocabulary, as many as were asked for or there are; of a failed row none.
absl::Status PipelineCoordinator::CheckTop(const TokenLogprob& token,
                                           const std::vector<TokenLogprob>& top,
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
  const bool failed = token.token == kNoToken;
  if (!failed) PENSTOCK_RETURN_IF_ERROR(check(token));
  const int64_t expected = failed ? 0 : std::min<int64_t>(std::max(count, 0), vocab_size_);
  if (static_cast<int64_t>(top.size()) != expected) {
    return absl::InternalError(
        absl::StrCat(top.size(), " likeliest tokens are told instead of ", expected));
  }
  for (const TokenLogprob& one : top) PENSTOCK_RETURN_IF_ERROR(check(one));
  return absl::OkStatus();
}

}  // namespace penstock
