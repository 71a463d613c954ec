#include "worker/stage_slots.h"

#include <algorithm>
#include <utility>

namespace penstock {

absl::Status StageSlots::Admit(const StepPlan& plan, std::span<const int32_t> fed) {
  for (const Admission& admission : plan.admissions) {
    Slot& slot = At(admission.slot);
    slot = Slot();
    slot.used = true;
    slot.generation = admission.generation;
    slot.sampling = admission.sampling;
    slot.prompt_tokens = admission.prompt_tokens;
    if (samples_ && slot.sampling.needs_history()) {
      slot.history = TokenHistory(admission.history, admission.prompt_tokens);
    }
  }
  absl::Status fits;
  for (size_t r = 0; r < plan.rows.size() && fits.ok(); ++r) {
    fits = CheckRow(plan.rows[r], !fed.empty() && fed[r] == kVoidToken);
  }
  for (Slot& slot : slots_) slot.in_plan = false;
  return fits;
}

absl::Status StageSlots::CheckRow(const PlanRow& row, bool is_void) {
  const auto refuse = [&row](const std::string& what) {
    return absl::FailedPreconditionError(
        absl::StrCat("slot ", row.slot, " of generation ", row.generation, " ", what));
  };
  if (row.slot < 0 || row.slot >= static_cast<int64_t>(slots_.size()) || !At(row.slot).used ||
      At(row.slot).generation != row.generation) {
    return refuse("was not admitted to this stage");
  }
  Slot& slot = At(row.slot);
  if (std::exchange(slot.in_plan, true)) return refuse("has two rows in the plan");
  if (!row.targets.empty() && slot.sampling.prompt_logprobs < 0) {
    return refuse("has targets, but asked for no log-probabilities of its prompt");
  }
  if (!samples_ || is_void || !row.sample || !slot.sampling.needs_history()) {
    return absl::OkStatus();
  }
  const auto known = static_cast<int64_t>(slot.history.tokens().size());
  const int64_t position = row.position + static_cast<int64_t>(row.tokens.size());
  if (position == known) return absl::OkStatus();
  return refuse(
      absl::StrCat("samples position ", position, ", but its history has ", known, " tokens"));
}

bool StageSlots::Ends(const SampledToken& sample) const {
  if (sample.token == kNoToken || sample.token == kVoidToken) return true;
  const std::vector<int32_t>& stop_ids = At(sample.slot).sampling.stop_ids;  // sorted
  return std::binary_search(stop_ids.begin(), stop_ids.end(), sample.token);
}

}  // namespace penstock
