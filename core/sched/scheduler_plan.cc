// How a plan comes about.
#include <algorithm>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/sched/scheduler.h"

namespace penstock {

std::optional<StepPlan> Scheduler::Schedule() {
  // A suspect's plan is in flight alone.
  if (!CanSchedule() || log_.holds_suspect()) return std::nullopt;
  // Suspects and others take turns, so that neither waits for the end of the other.
  const auto is_suspect = [](const Sequence* each) { return each != nullptr && each->suspect; };
  const bool has_suspect =
      num_suspects_ > 0 &&
      (is_suspect(waiting_.Head()) || std::any_of(slots_.begin(), slots_.end(), is_suspect));
  const bool is_due = has_suspect && since_suspect_ >= options_.plans_ahead;
  if (is_due && !log_.empty()) return std::nullopt;
  bool alone = is_due && PickSuspect();
  if (!alone) PickRows();
  if (draft_.empty() && has_suspect && !is_due && log_.empty()) {
    alone = PickSuspect();
  }
  since_suspect_ = alone || is_due ? 0 : since_suspect_ + 1;
  if (draft_.empty()) return std::nullopt;
  return MakePlan();
}

void Scheduler::PickRows() {
  draft_.Reset(options_.max_step_tokens);
  PickDecodes();
  PickPrefills();
  // Those that had to make room for others.
  const auto has_left = [](const PlanDraft::Pick& pick) { return pick.sequence->slot < 0; };
  std::erase_if(draft_.decodes, has_left);
  std::erase_if(draft_.prefills, has_left);
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
  const uint64_t number = log_.next_number();
  std::vector<Sequence*> ready;
  for (Sequence* sequence : slots_) {
    if (sequence == nullptr || sequence->suspect || !sequence->decoding()) continue;
    if (sequence->ahead >= ahead) continue;
    // A plan that feeds what the one before it samples would hold up every stage until it has:
    // the plans of all other groups come between.
    if (sequence->ahead > 0 && number - sequence->sample_plan < static_cast<uint64_t>(groups)) {
      continue;
    }
    if (sequence->generated() + sequence->ahead >= sequence->max_tokens) continue;
    ready.push_back(sequence);
  }
  // A share of the rows, such that the shares of `groups` plans one after the other are all rows.
  const auto turn = static_cast<int64_t>(number % static_cast<uint64_t>(groups));
  const auto share = static_cast<size_t>((rows + turn) / groups);
  const auto needy = std::count_if(ready.begin(), ready.end(), [](const Sequence* each) {
    return BlocksFor(each->planned + 1) > static_cast<int64_t>(each->blocks.size());
  });
  if (needy > pool_.available()) {
    // Blocks go to the highest in rank, or they would be taken away again at once.
    std::sort(ready.begin(), ready.end(),
              [](const Sequence* a, const Sequence* b) { return b->RanksBelow(*a); });
  } else if (ready.size() > share) {
    std::sort(ready.begin(), ready.end(), [](const Sequence* a, const Sequence* b) {
      return std::pair(a->last_plan, a->admission) < std::pair(b->last_plan, b->admission);
    });
  }
  for (Sequence* sequence : ready) {
    if (draft_.decodes.size() == share) break;
    if (sequence->slot >= 0) PickDecode(*sequence);
  }
}

// Feeds the token sampled last; false: there is no block for it.
bool Scheduler::PickDecode(Sequence& sequence) {
  if (Reserve(sequence, sequence.planned + 1) == sequence.planned) return false;
  draft_.decodes.push_back({&sequence, 1});
  --draft_.budget;
  return true;
}

void Scheduler::PickPrefills() {
  std::vector<Sequence*> begun;
  for (Sequence* sequence : slots_) {
    if (sequence == nullptr || sequence->suspect || sequence->decoding()) continue;
    begun.push_back(sequence);
  }
  std::sort(begun.begin(), begun.end(),
            [](const Sequence* a, const Sequence* b) { return a->admission < b->admission; });
  draft_.budget = std::min(draft_.budget, ChunkBudget());
  for (Sequence* sequence : begun) {
    if (sequence->slot >= 0) PickPrefill(*sequence);
  }
  while (draft_.budget > 0 && !draft_.is_short) {
    Sequence* head = waiting_.Head();
    if (head == nullptr || head->suspect || !Admit(*head)) return;
    PickPrefill(*head);
  }
}

// How many tokens of prompts a plan should feed. Over several stages prompts are cut so that all of
// them have something to do: for n chunks the pipeline takes the time of n + stages - 1 chunks on
// the slowest stage.
int64_t Scheduler::ChunkBudget() {
  if (options_.num_stages == 1) return options_.max_step_tokens;
  int64_t tokens = free_slots_.empty() ? 0 : waiting_.prompt_tokens();
  for (const Sequence* sequence : slots_) {
    if (sequence == nullptr || sequence->suspect || sequence->decoding()) continue;
    tokens += sequence->size() - sequence->planned;
  }
  if (tokens == 0) return chunk_ = 0;
  constexpr int64_t kLeastChunk = 16;
  constexpr int64_t kLeastGain = 3;  // percent; predictions are no better
  int64_t best = 0;
  int64_t least_ns = 0;
  for (int64_t chunks = 1;; chunks *= 2) {
    const int64_t chunk = (tokens + chunks - 1) / chunks;
    if (chunk > options_.max_step_tokens) continue;
    if (best != 0 && chunk < kLeastChunk) break;
    const PlanShape shape = {1, chunk, chunk, chunk * (chunk + 1) / 2, 0};
    const int64_t ns = (chunks + options_.num_stages - 1) * cost_.PredictSlowestNs(shape);
    if (best != 0 && ns * 100 >= least_ns * (100 - kLeastGain)) break;
    best = chunk;
    least_ns = ns;
  }
  // What is left of a prompt is not cut ever smaller.
  return chunk_ = std::max(chunk_, best);
}

// Feeds what the budget and the blocks allow of the tokens that are known; false: nothing.
bool Scheduler::PickPrefill(Sequence& sequence) {
  int64_t end = std::min(sequence.planned + draft_.budget, sequence.size());
  // A row tells all its targets or none: it ends where those that were told before end.
  if (sequence.wants_targets() && sequence.planned < sequence.targets_told) {
    end = std::min(end, sequence.targets_told);
  }
  if (end > sequence.planned) end = Reserve(sequence, end);
  if (end <= sequence.planned) return false;
  draft_.prefills.push_back({&sequence, end - sequence.planned});
  draft_.budget -= end - sequence.planned;
  return true;
}

// The suspect that has waited longest, of those that can go on; false: none can.
bool Scheduler::PickSuspect() {
  draft_.Reset(options_.max_step_tokens);
  Sequence* head = waiting_.Head();
  if (head != nullptr && head->suspect && Admit(*head)) return PickPrefill(*head);
  std::vector<Sequence*> suspects;
  for (Sequence* sequence : slots_) {
    if (sequence != nullptr && sequence->suspect) suspects.push_back(sequence);
  }
  std::sort(suspects.begin(), suspects.end(), [](const Sequence* a, const Sequence* b) {
    return std::pair(a->last_plan, a->admission) < std::pair(b->last_plan, b->admission);
  });
  for (Sequence* sequence : suspects) {
    if (sequence->slot < 0) continue;  // it has made room for another
    if (sequence->decoding() ? PickDecode(*sequence) : PickPrefill(*sequence)) return true;
  }
  return false;
}

StepPlan Scheduler::MakePlan() {
  StepPlan plan;
  PlannedStep step;
  plan.number = step.number = log_.next_number();
  plan.rows.reserve(draft_.prefills.size() + draft_.decodes.size());
  step.rows.reserve(draft_.prefills.size() + draft_.decodes.size());
  for (const Sequence* sequence : draft_.admitted) {
    Admission& admission = plan.admissions.emplace_back();
    admission.slot = sequence->slot;
    admission.generation = sequence->generation;
    admission.sampling = sequence->sampling;
    admission.prompt_tokens = sequence->prompt_tokens;
    if (sequence->sampling.needs_history()) admission.history = sequence->tokens;
  }
  for (const PlanDraft::Pick& pick : draft_.prefills) AddRow(pick, plan, step);
  for (const PlanDraft::Pick& pick : draft_.decodes) AddRow(pick, plan, step);
  log_.Push(std::move(step), ShapeOf(plan, options_.sliding_window));
  return plan;
}

void Scheduler::AddRow(const PlanDraft::Pick& pick, StepPlan& plan, PlannedStep& step) {
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
