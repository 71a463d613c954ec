#include "frontend/pipeline_coordinator.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
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

absl::StatusOr<StageInfo> PipelineCoordinator::Load(const StageOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(StageInfo info, link_->Load(options));
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
  if (result.ok()) {
    if (absl::Status fits = CheckResult(plan, *result); !fits.ok()) result = fits;
  }
  // What else the link reports of this epoch stays in the inbox, unread.
  status_ = result.status();
  return Outcome{plan.number, std::move(result)};
}

// One sample, and a possible one, for every row that asked for one, and no other.
absl::Status PipelineCoordinator::CheckResult(const StepPlan& plan,
                                              const StepResult& result) const {
  const auto wrong = [&](const std::string& what) {
    return absl::InternalError(
        absl::StrCat("the stage's result of plan ", plan.number, " does not fit the plan: ", what));
  };
  if (result.number != plan.number || result.epoch != plan.epoch) {
    return wrong(absl::StrCat("it is of plan ", result.number, ", epoch ", result.epoch));
  }
  absl::flat_hash_map<int32_t, const PlanRow*> asked;  // by slot
  for (const PlanRow& row : plan.rows) {
    if (row.sample) asked.emplace(row.slot, &row);
  }
  for (const SampledToken& sample : result.samples) {
    const auto found = asked.find(sample.slot);
    if (found == asked.end()) {
      return wrong(absl::StrCat("a second or unasked sample of slot ", sample.slot));
    }
    const PlanRow& row = *found->second;
    const int64_t position = row.position + static_cast<int64_t>(row.tokens.size());
    if (sample.generation != row.generation || sample.position != position) {
      return wrong(absl::StrCat("slot ", sample.slot, " answers generation ", sample.generation,
                                ", position ", sample.position, " instead of ", row.generation,
                                ", ", position));
    }
    if (sample.token < 0 || sample.token >= vocab_size_) {
      return wrong(
          absl::StrCat("token ", sample.token, " is not in the vocabulary of ", vocab_size_));
    }
    asked.erase(found);
  }
  if (!asked.empty()) return wrong(absl::StrCat(asked.size(), " samples are missing"));
  return absl::OkStatus();
}

}  // namespace penstock
