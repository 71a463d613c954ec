// Scheduler: decides what every step computes. It owns the sequences, their slots and generations,
// the KV block ids and the plan numbers. Integers only: no model, no device, no clock.
// Thread rule: one thread, the engine's.
//
// The policy, first come first served:
// - A step has a budget of max_step_tokens. Decodes (one token each) come first, then the prompts
//   that have begun, then new sequences, oldest first; a prompt that does not fit is cut in chunks.
// - A new sequence is admitted only when a slot is free and the blocks of its whole need (prompt
//   and max_tokens) are: so nothing that runs ever runs out of blocks, and nothing is preempted.
//   The oldest waiting sequence is never overtaken.
// - A sequence with a row in a plan in flight is not scheduled again until that plan is committed.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/sched/block_manager.h"
#include "core/sched/sequence.h"
#include "core/sched/step_plan.h"

namespace penstock {

struct SchedulerOptions {
  int64_t num_blocks = 0;
  int64_t max_sequences = 64;     // slots
  int64_t max_step_tokens = 512;  // >= max_sequences, so that decodes always fit into a step
};

enum class SequenceEnd {
  kNone,
  kStop,    // one of its stop ids was sampled
  kLength,  // max_tokens
  kFailed,  // there was no token to choose (kNoToken)
};

// What a commit brought one sequence.
struct SequenceProgress {
  SequenceId id = 0;
  std::vector<PromptLogprob> prompt_logprobs;  // of this row, by position
  // A stop id included; none: the prompt goes on, or the sequence failed.
  std::optional<SampledToken> token;
  SequenceEnd end = SequenceEnd::kNone;
};

class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);

  // Queues a sequence. REQUIRES: `id` is new; prompt not empty; max_tokens > 0; its whole need
  // is at most num_blocks.
  void Add(SequenceId id, std::vector<int32_t> prompt, int64_t max_tokens,
           const SamplingParams& sampling);

  // Ends a sequence early; unknown ids are ignored. Its slot and blocks are free at once, or, if
  // a plan in flight holds its row, when that plan is committed or fails: no progress is told.
  void Abort(SequenceId id);

  // True while any sequence waits, runs or has an aborted row in flight.
  bool HasWork() const { return !sequences_.empty(); }

  // The next plan, numbered from 1; nothing if no sequence can go on now. Rows: prefill (any part
  // of a prompt) first, then decode (the one token sampled last). A row's block table covers the
  // positions up to its last token. A sequence's first row comes with an Admission of its slot, and
  // rows of a prompt whose log-probabilities are wanted with their targets.
  std::optional<StepPlan> Schedule();

  // Takes in the result of the oldest plan in flight; the progress of each row that sampled or
  // told log-probabilities. Sequences that ended are gone; so are failed ones (kNoToken), alone.
  // REQUIRES: the result fits its plan.
  std::vector<SequenceProgress> Commit(StepResult result);

  // The oldest plan in flight, `number`, has no result: the sequences in it, aborted ones apart,
  // which are gone.
  std::vector<SequenceId> Fail(uint64_t number);

  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t waiting_tokens() const { return waiting_tokens_; }  // prompt + max_tokens over these
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  const BlockManager& blocks() const { return blocks_; }

  // CHECKs that every block and every slot is free or owned by one sequence, and that sequences,
  // queues and plans in flight agree.
  void CheckIntegrity() const;

 private:
  struct InFlight {
    uint64_t number = 0;
    std::vector<Sequence*> rows;
    std::vector<int64_t> row_tokens;  // fed, by row
    int64_t samples = 0;              // rows that sample
    int64_t targets = 0;              // log-probabilities of prompts
  };

  bool Admit(Sequence& sequence, StepPlan& plan);
  void AddRow(Sequence& sequence, int64_t count, StepPlan& plan);
  Sequence& At(int32_t slot, uint32_t generation) const;
  SequenceEnd Append(Sequence& sequence, int32_t token);
  void Remove(Sequence& sequence);
  InFlight TakeInFlight(uint64_t number);

  const SchedulerOptions options_;
  BlockManager blocks_;
  absl::flat_hash_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  std::deque<Sequence*> waiting_;   // oldest first
  std::vector<Sequence*> running_;  // in order of admission
  int64_t waiting_tokens_ = 0;

  std::vector<Sequence*> slots_;       // by slot; nullptr: free
  std::vector<uint32_t> generations_;  // by slot: of its latest user
  std::vector<int32_t> free_slots_;

  std::deque<InFlight> in_flight_;  // oldest first
  uint64_t last_number_ = 0;
};

}  // namespace penstock
