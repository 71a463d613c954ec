// Scheduler: decides what every plan computes. It owns the sequences, their slots and generations,
// the KV block ids and the plan numbers. Integers only: no model, no device, no clock.
// Thread rule: one thread, the engine's.
//
// The policy:
// - Up to plans_ahead plans are in flight. A sequence may be in several of them: its next row feeds
//   the token that a plan in flight will sample (PlanRow::token_from), but never beyond max_tokens.
// - Decodes (one token each) come first, then the prompts that have begun, then new sequences, all
//   within max_step_tokens; a prompt that does not fit is cut in chunks. Over several stages the
//   decodes are split into the groups that the cost model wants, those that waited longest first.
// - Who waits is let in in the order of the WaitQueue and never overtaken, when there is room for
//   what it and those that run will probably need (AnswerLength, KvForecast).
// - Blocks are handed out as positions are planned. Where one is lacking, cached prefixes go first,
//   then the youngest running sequence of the lowest priority is preempted, if it ranks below the
//   one in need; else that one pauses. The oldest is never preempted, and can preempt all; who was
//   preempted three times returns with its whole need reserved, and is not preempted again.
// - A preempted sequence is resumed exactly: its T committed tokens are fed again but for what is
//   cached, without sampling before position T.
// - Stages run plans in number order, so what an ended or aborted sequence held is free at once,
//   even with rows of it in flight; what is answered to those is dropped.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/sched/answer_length.h"
#include "core/sched/cost_model.h"
#include "core/sched/kv_forecast.h"
#include "core/sched/kv_pool.h"
#include "core/sched/plan_log.h"
#include "core/sched/scheduler_types.h"
#include "core/sched/wait_queue.h"

namespace penstock {

class Scheduler {
 public:
  // REQUIRES: the cost model has options.num_stages stages.
  Scheduler(const SchedulerOptions& options, PipelineCost cost);

  // Queues a sequence. REQUIRES: `id` is new; prompt not empty; max_tokens > 0; its whole need,
  // BlocksFor(prompt + max_tokens - 1), is at most num_blocks.
  void Add(SequenceId id, SequenceRequest request);

  // Ends a sequence early; unknown ids are ignored. All that it held is free at once.
  void Abort(SequenceId id);

  // While it is one, a sequence is in flight alone: no other row in its plan, no other plan.
  // Unknown ids are ignored.
  void SetSuspect(SequenceId id, bool suspect);

  bool HasWork() const { return !sequences_.empty(); }  // a sequence lives
  // Whether Schedule is worth a call.
  bool CanSchedule() const { return HasWork() && log_.size() < options_.plans_ahead; }

  // The next plan, numbered from 1; nothing if plans_ahead are in flight or nobody can go on now.
  // Rows: prefill (tokens that are known) first, then decodes. A row's block table covers the
  // positions up to its last token. A sequence's first row comes with an Admission of its slot.
  std::optional<StepPlan> Schedule();

  // Takes in the result of the oldest plan in flight; the progress of each row that sampled or
  // told log-probabilities, in the order of the rows. Sequences that ended are gone; so are failed
  // ones, alone. REQUIRES: the result fits its plan.
  std::vector<SequenceProgress> Commit(StepResult result);

  // What is in flight will never be answered: every sequence goes back to the queue with its
  // committed tokens, to be resumed from them. Returns those that live and had rows in flight.
  std::vector<SequenceId> BeginEpoch();

  // How long a stage computed at a plan. Too old plans are ignored.
  void Observe(int64_t stage, uint64_t plan, int64_t compute_ns);
  // Of a plan, through all stages, one after the other; 0: it is too old.
  int64_t PredictNs(uint64_t plan) const;

  // Since the last call: sequences that were preempted, or had their first row.
  std::vector<SequenceId> TakePreempted() { return std::exchange(preempted_, {}); }
  std::vector<SequenceStart> TakeStarted() { return std::exchange(started_, {}); }

  int64_t num_waiting() const { return waiting_.size(); }
  int64_t waiting_tokens() const { return waiting_.tokens(); }  // prompt + max_tokens over these
  int64_t num_running() const {
    return options_.max_sequences - static_cast<int64_t>(free_slots_.size());
  }
  int64_t num_in_flight() const { return log_.size(); }  // plans
  uint64_t next_plan() const { return log_.next_number(); }
  const BlockManager& blocks() const { return pool_.blocks(); }
  // Since the scheduler was made.
  int64_t preemptions() const { return preemptions_; }
  // Of prompts, when they were first let in.
  int64_t prefix_lookup_tokens() const { return prefix_lookup_tokens_; }
  int64_t prefix_hit_tokens() const { return prefix_hit_tokens_; }

  // CHECKs that every block and every slot is free or owned, and that sequences, queues and plans
  // in flight agree.
  void CheckIntegrity() const;

 private:
  void PickRows();
  void PickDecodes();
  bool PickDecode(Sequence& sequence);
  void PickPrefills();
  bool PickPrefill(Sequence& sequence);
  bool PickSuspect();
  int64_t ChunkBudget();
  StepPlan MakePlan();
  void AddRow(const PlanDraft::Pick& pick, StepPlan& plan, PlannedStep& step);
  bool Admit(Sequence& sequence);
  bool HasRoom(const Sequence& sequence, const KvPool::Prefix& prefix);
  int64_t Reserve(Sequence& sequence, int64_t end);
  Sequence* VictimOf(const Sequence& sequence) const;
  void Preempt(Sequence& sequence);
  void LeaveSlot(Sequence& sequence, bool trusted);
  Sequence* Find(const PlannedRow& row) const;
  SequenceEnd Append(Sequence& sequence, int32_t token);
  void Remove(Sequence& sequence, bool trusted);

  const SchedulerOptions options_;
  PipelineCost cost_;
  KvPool pool_;
  AnswerLength lengths_;
  KvForecast forecast_;
  absl::flat_hash_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  WaitQueue waiting_;
  int64_t arrivals_ = 0;
  int64_t admissions_ = 0;

  std::vector<Sequence*> slots_;       // by slot; nullptr: free
  std::vector<uint32_t> generations_;  // by slot: of its latest user
  std::vector<int32_t> free_slots_;

  PlanLog log_;
  int64_t num_suspects_ = 0;
  int64_t since_suspect_ = 0;  // plans of others

  std::vector<SequenceId> preempted_;
  std::vector<SequenceStart> started_;
  int64_t preemptions_ = 0;
  int64_t prefix_lookup_tokens_ = 0;
  int64_t prefix_hit_tokens_ = 0;

  PlanDraft draft_;
  int64_t chunk_ = 0;  // tokens of prompts in a plan, while there are such; 0: not chosen
};

}  // namespace penstock
