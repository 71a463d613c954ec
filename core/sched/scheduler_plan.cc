// How a plan comes about.
#include <algorithm>
#include <utility>

#include "core/base/check.h"
#include "core/sched/scheduler.h"

namespace penstock {

std::optional<StepPlan> Scheduler::Schedule() {
  // A suspect's plan is in flight alone.
  if (!CanSchedule() || log_.holds_suspect()) return std::nullopt;
  prefills_.clear();
  decodes_.clear();
  admitted_.clear();
  budget_ = options_.max_step_tokens;

  // Suspects and others take turns, so that neither waits for the end of the other.
  const Sequence* head = waiting_.Head();
  const auto is_suspect = [](const Sequence* each) { return each != nullptr && each->suspect; };
  const bool has_suspect =
      num_suspects_ > 0 &&
      (is_suspect(head) || std::any_of(slots_.begin(), slots_.end(), is_suspect));
  const bool is_due = has_suspect && since_suspect_ >= options_.plans_ahead;
  if (is_due && !log_.empty()) return std::nullopt;
  bool alone = is_due && PickSuspect();
  if (!alone) {
    PickDecodes();
    PickPrefills();
  }
  if (prefills_.empty() && decodes_.empty() && has_suspect && !is_due && log_.empty()) {
    alone = PickSuspect();
  }
  since_suspect_ = alone || is_due ? 0 : since_suspect_ + 1;
  if (prefills_.empty() && decodes_.empty()) return std::nullopt;
  return MakePlan();
}

// There are at most max_sequences decodes, so while a prompt is being fed at least one token of the
// budget is left for it.
void Scheduler::PickDecodes() {
  int64_t rows = 0;
  int64_t context = 0;
  for (const Sequence* sequence : slots_) {
    if (sequence == nullptr || sequence->suspect || !sequence->decoding()) continue;
    ++rows;
    context += sequence->planned + 1;
  }
  if (rows == 0) return;
  const int64_t most = options_.num_stages == 1 ? 1 : options_.plans_ahead;
  const int64_t groups = cost_.Groups(rows, context, most);
  // As many plans as there are groups hold every decode once, or a sequence is further ahead.
  const int64_t ahead = (options_.plans_ahead + groups - 1) / groups;
  for (Sequence* sequence : slots_) {
    if (sequence == nullptr || sequence->suspect || !sequence->decoding()) continue;
    if (sequence->ahead >= ahead) continue;
    if (sequence->generated() + sequence->ahead >= sequence->max_tokens) continue;
    decodes_.push_back({sequence, 1});
  }
  // A share of the rows, such that the shares of `groups` plans one after the other are all rows.
  const auto turn = static_cast<int64_t>(log_.next_number() % static_cast<uint64_t>(groups));
  const auto share = static_cast<size_t>((rows + turn) / groups);
  if (decodes_.size() > share && share > 0) {
    std::nth_element(decodes_.begin(), decodes_.begin() + static_cast<int64_t>(share) - 1,
                     decodes_.end(), [](const Pick& a, const Pick& b) {
                       return std::pair(a.sequence->last_plan, a.sequence->admission) <
                              std::pair(b.sequence->last_plan, b.sequence->admission);
                     });
    decodes_.resize(share);
  }
  budget_ -= static_cast<int64_t>(decodes_.size());
}

void Scheduler::PickPrefills() {
  for (Sequence* sequence : slots_) {
    if (sequence == nullptr || sequence->suspect || sequence->decoding()) continue;
    prefills_.push_back({sequence, 0});
  }
  std::sort(prefills_.begin(), prefills_.end(), [](const Pick& a, const Pick& b) {
    return a.sequence->admission < b.sequence->admission;
  });
  const std::vector<Pick> begun = std::exchange(prefills_, {});
  for (const Pick& pick : begun) PickPrefill(*pick.sequence);
  while (budget_ > 0) {
    Sequence* head = waiting_.Head();
    if (head == nullptr || head->suspect || !Admit(*head)) return;
    PickPrefill(*head);
  }
}

// Feeds what the budget allows of the tokens that are known.
void Scheduler::PickPrefill(Sequence& sequence) {
  int64_t count = std::min(budget_, sequence.size() - sequence.planned);
  // A row tells all its targets or none: it ends where those that were told before end.
  if (sequence.wants_targets() && sequence.planned < sequence.targets_told) {
    count = std::min(count, sequence.targets_told - sequence.planned);
  }
  if (count <= 0) return;
  prefills_.push_back({&sequence, count});
  budget_ -= count;
}

// The suspect that has waited longest, of those that can go on.
bool Scheduler::PickSuspect() {
  Sequence* head = waiting_.Head();
  if (head != nullptr && head->suspect && Admit(*head)) {
    PickPrefill(*head);
    return true;
  }
  Sequence* longest = nullptr;
  for (Sequence* sequence : slots_) {
    if (sequence == nullptr || !sequence->suspect) continue;
    if (longest == nullptr || sequence->last_plan < longest->last_plan) longest = sequence;
  }
  if (longest == nullptr) return false;
  if (longest->decoding()) {
    decodes_.push_back({longest, 1});
  } else {
    PickPrefill(*longest);
  }
  return true;
}

// Moves the sequence from the queue to a slot; false if there is no room for it.
bool Scheduler::Admit(Sequence& sequence) {
  if (free_slots_.empty() || sequence.blocks_needed() > blocks_.num_free()) return false;
  waiting_.Remove(sequence);
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[sequence.slot] = &sequence;
  sequence.generation = ++generations_[sequence.slot];
  sequence.admission = ++admissions_;
  sequence.blocks = blocks_.Allocate(sequence.blocks_needed());
  sequence.tokens.reserve(static_cast<size_t>(sequence.prompt_tokens + sequence.max_tokens));
  admitted_.push_back(&sequence);
  return true;
}

StepPlan Scheduler::MakePlan() {
  StepPlan plan;
  PlannedStep step;
  plan.number = step.number = log_.next_number();
  plan.rows.reserve(prefills_.size() + decodes_.size());
  step.rows.reserve(prefills_.size() + decodes_.size());
  for (const Sequence* sequence : admitted_) {
    Admission& admission = plan.admissions.emplace_back();
    admission.slot = sequence->slot;
    admission.generation = sequence->generation;
    admission.sampling = sequence->sampling;
    admission.prompt_tokens = sequence->prompt_tokens;
    if (sequence->sampling.needs_history()) admission.history = sequence->tokens;
  }
  for (const Pick& pick : prefills_) AddRow(pick, plan, step);
  for (const Pick& pick : decodes_) AddRow(pick, plan, step);
  log_.Push(std::move(step), ShapeOf(plan, options_.sliding_window));
  return plan;
}

void Scheduler::AddRow(const Pick& pick, StepPlan& plan, PlannedStep& step) {
  Sequence& sequence = *pick.sequence;
  const int64_t begin = sequence.planned;
  const int64_t end = begin + pick.tokens;
  PlanRow& row = plan.rows.emplace_back();
  row.slot = sequence.slot;
  row.generation = sequence.generation;
  row.position = begin;
  if (begin < sequence.size()) {
    row.tokens.assign(sequence.tokens.begin() + begin, sequence.tokens.begin() + end);
  } else {
    row.tokens.assign(1, kNoToken);
    row.token_from = sequence.sample_plan;
  }
  row.blocks.assign(sequence.blocks.begin(), sequence.blocks.begin() + BlocksFor(end));
  row.sample = end >= sequence.size();
  if (sequence.wants_targets() && begin >= sequence.targets_told) {
    const int64_t last = std::min(end + 1, sequence.prompt_tokens);
    if (begin + 1 < last) {
      row.targets.assign(sequence.tokens.begin() + begin + 1, sequence.tokens.begin() + last);
    }
  }

  PlannedRow& planned = step.rows.emplace_back();
  planned.id = sequence.id;
  planned.slot = row.slot;
  planned.generation = row.generation;
  planned.tokens = pick.tokens;
  planned.targets = static_cast<int64_t>(row.targets.size());
  planned.sample = row.sample;
  step.alone = step.alone || sequence.suspect;

  sequence.planned = end;
  sequence.last_plan = plan.number;
  if (row.sample) {
    ++sequence.ahead;
    sequence.sample_plan = plan.number;
  }
  if (!sequence.started) {
    sequence.started = true;
    started_.push_back({sequence.id, begin});
  }
}

}  // namespace penstock
