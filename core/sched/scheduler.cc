#include "core/sched/scheduler.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"

namespace penstock {

Scheduler::Scheduler(SchedulerOptions options) : options_(options), blocks_(options_.num_blocks) {
  PENSTOCK_CHECK_GT(options_.max_sequences, 0);
  PENSTOCK_CHECK_LE(options_.max_sequences, INT32_MAX);
  PENSTOCK_CHECK_GE(options_.max_step_tokens, options_.max_sequences);
  slots_.resize(options_.max_sequences, nullptr);
  generations_.resize(options_.max_sequences, 0);
  for (int64_t slot = options_.max_sequences - 1; slot >= 0; --slot) {
    free_slots_.push_back(static_cast<int32_t>(slot));
  }
}

void Scheduler::Add(SequenceId id, std::vector<int32_t> prompt, int64_t max_tokens,
                    const SamplingParams& sampling) {
  PENSTOCK_CHECK(!prompt.empty());
  PENSTOCK_CHECK_GT(max_tokens, 0);
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->tokens = std::move(prompt);
  sequence->prompt_tokens = sequence->size();
  sequence->max_tokens = max_tokens;
  sequence->sampling = sampling;
  PENSTOCK_CHECK_LE(sequence->blocks_needed(), blocks_.num_blocks());

  waiting_.push_back(sequence.get());
  waiting_tokens_ += sequence->prompt_tokens + max_tokens;
  const bool is_new = sequences_.emplace(id, std::move(sequence)).second;
  PENSTOCK_CHECK(is_new);
}

void Scheduler::Abort(SequenceId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  Sequence& sequence = *found->second;
  if (sequence.in_flight != 0) {
    sequence.aborted = true;
  } else {
    Remove(sequence);
  }
}

std::optional<StepPlan> Scheduler::Schedule() {
  StepPlan plan;
  plan.number = last_number_ + 1;
  in_flight_.emplace_back().number = plan.number;

  // Decodes are served first but stand last. There are at most max_sequences of them, so while a
  // prompt is being fed at least one token of the budget is left for it.
  int64_t budget = options_.max_step_tokens;
  std::vector<Sequence*> decodes;
  for (Sequence* sequence : running_) {
    if (sequence->in_flight == 0 && sequence->decoding()) decodes.push_back(sequence);
  }
  budget -= static_cast<int64_t>(decodes.size());

  const auto add_prefill = [&](Sequence& sequence) {
    const int64_t count = std::min(budget, sequence.prompt_tokens - sequence.computed);
    AddRow(sequence, count, plan);
    budget -= count;
  };
  for (Sequence* sequence : running_) {
    if (budget == 0) break;
    if (sequence->in_flight == 0 && !sequence->decoding()) add_prefill(*sequence);
  }
  while (budget > 0 && !waiting_.empty() && Admit(*waiting_.front(), plan)) {
    add_prefill(*running_.back());
  }
  for (Sequence* sequence : decodes) AddRow(*sequence, 1, plan);

  if (plan.rows.empty()) {
    in_flight_.pop_back();
    return std::nullopt;
  }
  last_number_ = plan.number;
  return plan;
}

// Moves the oldest waiting sequence into a slot; false if there is no room for it.
bool Scheduler::Admit(Sequence& sequence, StepPlan& plan) {
  if (free_slots_.empty() || sequence.blocks_needed() > blocks_.num_free()) return false;
  waiting_.pop_front();
  waiting_tokens_ -= sequence.prompt_tokens + sequence.max_tokens;
  running_.push_back(&sequence);

  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[sequence.slot] = &sequence;
  sequence.generation = ++generations_[sequence.slot];
  sequence.blocks = blocks_.Allocate(sequence.blocks_needed());
  sequence.tokens.reserve(sequence.prompt_tokens + sequence.max_tokens);

  Admission& admission = plan.admissions.emplace_back();
  admission.slot = sequence.slot;
  admission.generation = sequence.generation;
  admission.sampling = sequence.sampling;
  admission.prompt_tokens = sequence.prompt_tokens;
  if (sequence.sampling.needs_history()) admission.history = sequence.tokens;
  return true;
}

// Feeds the next `count` tokens of the sequence in the plan.
void Scheduler::AddRow(Sequence& sequence, int64_t count, StepPlan& plan) {
  const int64_t end = sequence.computed + count;
  PlanRow& row = plan.rows.emplace_back();
  row.slot = sequence.slot;
  row.generation = sequence.generation;
  row.position = sequence.computed;
  row.tokens.assign(sequence.tokens.begin() + sequence.computed, sequence.tokens.begin() + end);
  row.blocks.assign(sequence.blocks.begin(), sequence.blocks.begin() + BlocksFor(end));
  row.sample = end == sequence.size();
  if (sequence.sampling.prompt_logprobs >= 0 && !sequence.decoding()) {
    const int64_t last = std::min(end + 1, sequence.prompt_tokens);
    row.targets.assign(sequence.tokens.begin() + sequence.computed + 1,
                       sequence.tokens.begin() + last);
  }

  sequence.in_flight = plan.number;
  InFlight& flight = in_flight_.back();
  flight.rows.push_back(&sequence);
  flight.row_tokens.push_back(count);
  flight.samples += row.sample ? 1 : 0;
  flight.targets += static_cast<int64_t>(row.targets.size());
}

std::vector<SequenceProgress> Scheduler::Commit(StepResult result) {
  const InFlight flight = TakeInFlight(result.number);
  std::vector<Sequence*> leaving;
  for (size_t i = 0; i < flight.rows.size(); ++i) {
    Sequence* sequence = flight.rows[i];
    sequence->computed += flight.row_tokens[i];
    sequence->in_flight = 0;
    if (sequence->aborted) leaving.push_back(sequence);
  }
  PENSTOCK_CHECK_EQ(static_cast<int64_t>(result.samples.size()), flight.samples);
  PENSTOCK_CHECK_EQ(static_cast<int64_t>(result.prompt_logprobs.size()), flight.targets);

  std::vector<SequenceProgress> progress;
  progress.reserve(flight.rows.size());
  absl::flat_hash_map<SequenceId, size_t> told;  // places in `progress` of what tells of a prompt
  for (PromptLogprob& logprob : result.prompt_logprobs) {
    Sequence& sequence = At(logprob.slot, logprob.generation);
    if (sequence.aborted) continue;
    const auto [found, is_new] = told.emplace(sequence.id, progress.size());
    if (is_new) progress.emplace_back().id = sequence.id;
    SequenceProgress& step = progress[found->second];
    if (logprob.token.token == kNoToken) step.end = SequenceEnd::kFailed;
    step.prompt_logprobs.push_back(std::move(logprob));
  }
  for (SampledToken& sample : result.samples) {
    Sequence& sequence = At(sample.slot, sample.generation);
    PENSTOCK_CHECK_EQ(sample.position, sequence.size());
    PENSTOCK_CHECK_EQ(sequence.computed, sequence.size());
    if (sequence.aborted) continue;
    const auto found = told.find(sequence.id);
    if (found == told.end()) progress.emplace_back().id = sequence.id;
    SequenceProgress& step = found == told.end() ? progress.back() : progress[found->second];
    if (step.end == SequenceEnd::kFailed) continue;
    step.end = Append(sequence, sample.token);
    if (step.end != SequenceEnd::kFailed) step.token = std::move(sample);
  }
  for (SequenceProgress& step : progress) {
    if (step.end == SequenceEnd::kNone) continue;
    if (step.end == SequenceEnd::kFailed) step.prompt_logprobs.clear();
    leaving.push_back(sequences_.at(step.id).get());
  }
  for (Sequence* sequence : leaving) Remove(*sequence);
  return progress;
}

// The sequence that a part of a result speaks of.
Sequence& Scheduler::At(int32_t slot, uint32_t generation) const {
  PENSTOCK_CHECK(slot >= 0 && slot < options_.max_sequences);
  Sequence* sequence = slots_[slot];
  PENSTOCK_CHECK(sequence != nullptr && sequence->generation == generation);
  return *sequence;
}

// Takes in a sampled token; how it ends the sequence.
SequenceEnd Scheduler::Append(Sequence& sequence, int32_t token) {
  if (token == kNoToken) return SequenceEnd::kFailed;
  sequence.tokens.push_back(token);
  const std::vector<int32_t>& stop_ids = sequence.sampling.stop_ids;
  if (std::binary_search(stop_ids.begin(), stop_ids.end(), token)) return SequenceEnd::kStop;
  return sequence.generated() == sequence.max_tokens ? SequenceEnd::kLength : SequenceEnd::kNone;
}

std::vector<SequenceId> Scheduler::Fail(uint64_t number) {
  const InFlight flight = TakeInFlight(number);
  std::vector<SequenceId> hit;
  for (Sequence* sequence : flight.rows) {
    if (!sequence->aborted) hit.push_back(sequence->id);
    Remove(*sequence);
  }
  return hit;
}

Scheduler::InFlight Scheduler::TakeInFlight(uint64_t number) {
  PENSTOCK_CHECK(!in_flight_.empty());
  InFlight flight = std::move(in_flight_.front());
  in_flight_.pop_front();
  PENSTOCK_CHECK_EQ(flight.number, number);
  return flight;
}

// Gives back all that the sequence holds; it is gone then.
void Scheduler::Remove(Sequence& sequence) {
  if (sequence.slot < 0) {
    waiting_.erase(std::find(waiting_.begin(), waiting_.end(), &sequence));
    waiting_tokens_ -= sequence.prompt_tokens + sequence.max_tokens;
  } else {
    running_.erase(std::find(running_.begin(), running_.end(), &sequence));
    slots_[sequence.slot] = nullptr;
    free_slots_.push_back(sequence.slot);
    for (int32_t block : sequence.blocks) blocks_.Release(block);
  }
  const SequenceId id = sequence.id;  // a copy: the sequence dies in the call
  sequences_.erase(id);
}

void Scheduler::CheckIntegrity() const {
  blocks_.CheckIntegrity();
  PENSTOCK_CHECK_EQ(sequences_.size(), waiting_.size() + running_.size());
  PENSTOCK_CHECK_EQ(slots_.size(), running_.size() + free_slots_.size());
  for (int32_t slot : free_slots_) PENSTOCK_CHECK(slots_[slot] == nullptr);

  int64_t tokens = 0;
  for (const Sequence* sequence : waiting_) {
    PENSTOCK_CHECK_EQ(sequence->slot, -1);
    PENSTOCK_CHECK(sequence->blocks.empty() && sequence->in_flight == 0);
    tokens += sequence->prompt_tokens + sequence->max_tokens;
  }
  PENSTOCK_CHECK_EQ(tokens, waiting_tokens_);

  std::vector<int32_t> owners(blocks_.num_blocks(), 0);
  int64_t rows = 0;
  for (const Sequence* sequence : running_) {
    PENSTOCK_CHECK(slots_[sequence->slot] == sequence);
    PENSTOCK_CHECK_EQ(generations_[sequence->slot], sequence->generation);
    PENSTOCK_CHECK_EQ(static_cast<int64_t>(sequence->blocks.size()), sequence->blocks_needed());
    PENSTOCK_CHECK_LT(sequence->computed, sequence->size());
    PENSTOCK_CHECK(!sequence->aborted || sequence->in_flight != 0);
    for (int32_t block : sequence->blocks) ++owners[block];
    rows += sequence->in_flight != 0 ? 1 : 0;
  }
  for (int64_t block = 0; block < blocks_.num_blocks(); ++block) {
    PENSTOCK_CHECK_EQ(owners[block], blocks_.references(static_cast<int32_t>(block)));
  }
  for (const InFlight& flight : in_flight_) {
    rows -= static_cast<int64_t>(flight.rows.size());
    for (const Sequence* sequence : flight.rows) {
      PENSTOCK_CHECK_EQ(sequence->in_flight, flight.number);
    }
  }
  PENSTOCK_CHECK_EQ(rows, 0);
}

}  // namespace penstock
