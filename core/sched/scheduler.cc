#include "core/sched/scheduler.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"

namespace penstock {

Scheduler::Scheduler(const SchedulerOptions& options, PipelineCost cost)
    : options_(options), cost_(std::move(cost)), pool_(options_), log_(options_.plans_ahead) {
  PENSTOCK_CHECK_GT(options_.max_sequences, 0);
  PENSTOCK_CHECK_LE(options_.max_sequences, INT32_MAX);
  PENSTOCK_CHECK_GE(options_.max_step_tokens, options_.max_sequences);
  PENSTOCK_CHECK_GT(options_.plans_ahead, 0);
  PENSTOCK_CHECK_EQ(options_.num_stages, cost_.num_stages());
  slots_.resize(options_.max_sequences, nullptr);
  generations_.resize(options_.max_sequences, 0);
  for (int64_t slot = options_.max_sequences - 1; slot >= 0; --slot) {
    free_slots_.push_back(static_cast<int32_t>(slot));
  }
}

void Scheduler::Add(SequenceId id, SequenceRequest request) {
  PENSTOCK_CHECK(!request.prompt.empty());
  PENSTOCK_CHECK_GT(request.max_tokens, 0);
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->arrival = ++arrivals_;
  sequence->tokens = std::move(request.prompt);
  sequence->prompt_tokens = sequence->size();
  sequence->max_tokens = request.max_tokens;
  sequence->sampling = std::move(request.sampling);
  sequence->priority = request.priority;
  sequence->tenant = request.tenant;
  PENSTOCK_CHECK_LE(sequence->blocks_needed(), pool_.blocks().num_blocks());

  waiting_.Push(*sequence);
  const bool is_new = sequences_.emplace(id, std::move(sequence)).second;
  PENSTOCK_CHECK(is_new);
}

void Scheduler::Abort(SequenceId id) {
  const auto found = sequences_.find(id);
  if (found != sequences_.end()) Remove(*found->second, true);
}

void Scheduler::SetSuspect(SequenceId id, bool suspect) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end() || found->second->suspect == suspect) return;
  found->second->suspect = suspect;
  num_suspects_ += suspect ? 1 : -1;
}

std::vector<SequenceProgress> Scheduler::Commit(StepResult result) {
  const PlannedStep step = log_.Pop(result.number);
  // Samples may come in another order than the rows.
  std::vector<SampledToken*> samples(slots_.size(), nullptr);  // by slot
  for (SampledToken& sample : result.samples) {
    PENSTOCK_CHECK(sample.slot >= 0 && sample.slot < options_.max_sequences);
    samples[sample.slot] = &sample;
  }

  std::vector<SequenceProgress> progress;
  progress.reserve(step.rows.size());
  size_t next_target = 0;
  for (const PlannedRow& row : step.rows) {
    const size_t first_target = next_target;
    next_target += row.targets;
    PENSTOCK_CHECK_LE(next_target, result.prompt_logprobs.size());
    SampledToken* sample = samples[row.slot];
    PENSTOCK_CHECK_EQ(row.sample, sample != nullptr);
    Sequence* sequence = Find(row);
    if (sequence == nullptr) continue;  // it has left since
    sequence->computed += row.tokens;
    if (row.targets == 0 && !row.sample) {
      pool_.Enter(*sequence);
      continue;
    }

    SequenceProgress& told = progress.emplace_back();
    told.id = row.id;
    for (size_t i = first_target; i < next_target; ++i) {
      PromptLogprob& logprob = result.prompt_logprobs[i];
      PENSTOCK_CHECK(logprob.slot == row.slot && logprob.generation == row.generation);
      PENSTOCK_CHECK_EQ(logprob.position, ++sequence->targets_told);
      if (logprob.token.token == kNoToken) told.end = SequenceEnd::kFailed;
      told.prompt_logprobs.push_back(std::move(logprob));
    }
    if (row.sample && told.end == SequenceEnd::kNone) {
      --sequence->ahead;
      PENSTOCK_CHECK_EQ(sample->generation, row.generation);
      PENSTOCK_CHECK_EQ(sample->position, sequence->size());
      told.end = Append(*sequence, sample->token);
      if (told.end != SequenceEnd::kFailed) told.token = std::move(*sample);
    }
    const bool failed = told.end == SequenceEnd::kFailed;
    if (failed) {
      told.prompt_logprobs.clear();
    } else {
      pool_.Enter(*sequence);
    }
    if (told.end != SequenceEnd::kNone) Remove(*sequence, !failed);
  }
  PENSTOCK_CHECK_EQ(next_target, result.prompt_logprobs.size());
  return progress;
}

// The sequence that a row is of; nullptr: it has left its slot.
Sequence* Scheduler::Find(const PlannedRow& row) const {
  Sequence* sequence = slots_[row.slot];
  return sequence != nullptr && sequence->generation == row.generation ? sequence : nullptr;
}

// Takes in a sampled token; how it ends the sequence. A void one says that a stage has ended a
// sequence that lives here: its answer cannot be trusted any more.
SequenceEnd Scheduler::Append(Sequence& sequence, int32_t token) {
  if (token == kNoToken || token == kVoidToken) return SequenceEnd::kFailed;
  sequence.tokens.push_back(token);
  waiting_.Charge(sequence.tenant, WaitQueue::kAnswerWeight);
  const int part = AnswerLength::PartOf(sequence.generated(), sequence.max_tokens);
  while (sequence.part < part) lengths_.CameTo(++sequence.part);
  const std::vector<int32_t>& stop_ids = sequence.sampling.stop_ids;
  if (std::binary_search(stop_ids.begin(), stop_ids.end(), token)) return SequenceEnd::kStop;
  return sequence.generated() == sequence.max_tokens ? SequenceEnd::kLength : SequenceEnd::kNone;
}

std::vector<SequenceId> Scheduler::BeginEpoch() {
  std::vector<SequenceId> hit;
  for (const PlannedStep& step : log_.steps()) {
    for (const PlannedRow& row : step.rows) {
      if (sequences_.contains(row.id)) hit.push_back(row.id);
    }
  }
  std::sort(hit.begin(), hit.end());
  hit.erase(std::unique(hit.begin(), hit.end()), hit.end());
  log_.Drop();
  for (Sequence* sequence : slots_) {
    if (sequence == nullptr) continue;
    LeaveSlot(*sequence, true);
    waiting_.Push(*sequence);
  }
  pool_.Clear();
  return hit;
}

void Scheduler::Observe(int64_t stage, uint64_t plan, int64_t compute_ns) {
  const PlanShape* shape = log_.shape(plan);
  if (shape != nullptr) cost_.Observe(stage, *shape, compute_ns);
}

int64_t Scheduler::PredictNs(uint64_t plan) const {
  const PlanShape* shape = log_.shape(plan);
  return shape == nullptr ? 0 : cost_.PredictNs(*shape);
}

// It is gone then. `trusted`: what it computed may be used by others.
void Scheduler::Remove(Sequence& sequence, bool trusted) {
  if (sequence.slot < 0) {
    waiting_.Remove(sequence);
  } else {
    LeaveSlot(sequence, trusted);
  }
  // Also an aborted answer was no longer than that: stop texts end them so.
  if (sequence.part >= 0 && sequence.generated() < sequence.max_tokens) {
    lengths_.EndedIn(sequence.part);
  }
  if (sequence.suspect) --num_suspects_;
  const SequenceId id = sequence.id;  // a copy: the sequence dies in the call
  sequences_.erase(id);
}

void Scheduler::CheckIntegrity() const {
  pool_.CheckIntegrity();
  waiting_.CheckIntegrity();
  PENSTOCK_CHECK_EQ(static_cast<int64_t>(sequences_.size()), waiting_.size() + num_running());
  for (int32_t slot : free_slots_) PENSTOCK_CHECK(slots_[slot] == nullptr);

  std::vector<int32_t> owners(pool_.blocks().num_blocks(), 0);
  std::vector<int64_t> samples(slots_.size(), 0);  // in flight
  std::vector<int64_t> fed(slots_.size(), 0);
  for (const PlannedStep& step : log_.steps()) {
    for (const PlannedRow& row : step.rows) {
      if (Find(row) == nullptr) continue;
      samples[row.slot] += row.sample ? 1 : 0;
      fed[row.slot] += row.tokens;
    }
  }
  int64_t suspects = 0;
  for (const auto& [id, sequence] : sequences_) {
    suspects += sequence->suspect ? 1 : 0;
    PENSTOCK_CHECK_EQ(id, sequence->id);
    PENSTOCK_CHECK_LT(sequence->generated(), sequence->max_tokens);
    if (sequence->slot < 0) {
      PENSTOCK_CHECK(sequence->blocks.empty());
      PENSTOCK_CHECK(sequence->planned == 0 && sequence->computed == 0 && sequence->ahead == 0);
      continue;
    }
    const int32_t slot = sequence->slot;
    PENSTOCK_CHECK(slots_[slot] == sequence.get());
    PENSTOCK_CHECK_EQ(generations_[slot], sequence->generation);
    PENSTOCK_CHECK_EQ(sequence->ahead, samples[slot]);
    PENSTOCK_CHECK_EQ(sequence->planned, sequence->computed + fed[slot]);
    PENSTOCK_CHECK_LT(sequence->computed, sequence->size());
    PENSTOCK_CHECK_LE(sequence->planned, sequence->positions_needed());
    const auto held = static_cast<int64_t>(sequence->blocks.size());
    PENSTOCK_CHECK_LE(BlocksFor(sequence->planned), held);
    PENSTOCK_CHECK_LE(held, sequence->blocks_needed());
    PENSTOCK_CHECK_LE(sequence->entered * kBlockSize, sequence->computed);
    if (sequence->pinned()) PENSTOCK_CHECK_EQ(held, sequence->blocks_needed());
    PENSTOCK_CHECK_LE(sequence->preemptions, kMostPreemptions);
    for (int32_t block : sequence->blocks) ++owners[block];
  }
  PENSTOCK_CHECK_EQ(suspects, num_suspects_);
  for (int64_t block = 0; block < pool_.blocks().num_blocks(); ++block) {
    PENSTOCK_CHECK_EQ(owners[block], pool_.blocks().references(static_cast<int32_t>(block)));
  }
}

}  // namespace penstock
