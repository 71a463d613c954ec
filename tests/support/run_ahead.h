// Drives sequences through a LocalPipeline with plans that run ahead: what drive.h does for one
// stage that is waited for. Rows feed tokens that are not known yet, by the mailbox.
#pragma once

#include <algorithm>
#include <deque>
#include <set>
#include <utility>
#include <vector>

#include "tests/support/drive.h"
#include "tests/support/local_pipeline.h"

namespace penstock::testing {

class RunAhead {
 public:
  // `depth`: plans on their way. Sequence i is in the plans of number mod groups == i mod groups.
  // `eager`: the mailbox feeds what it can, also tokens that are known by now.
  explicit RunAhead(int64_t depth, size_t groups = 1, bool eager = false)
      : depth_(depth), groups_(groups), eager_(eager) {}

  // Until every sequence has `answer_tokens` or has ended with a stop id or a failure (whose answer
  // is then shorter: a failure has no token). Epoch and numbers go on from what was before.
  void Run(LocalPipeline& pipeline, std::vector<Driven>& sequences, size_t answer_tokens,
           int64_t context, uint32_t epoch, uint64_t first_plan);

  // All that were submitted, and what the last stage answered.
  const std::vector<StepPlan>& plans() const { return plans_; }
  const std::vector<StepResult>& results() const { return results_; }
  int64_t voids() const { return voids_; }  // among the results

 private:
  struct Track {
    std::vector<uint64_t> sampled_by;  // plan, by token of the answer
    bool ended = false;
  };

  bool Add(Driven& sequence, Track& track, int32_t slot, uint32_t epoch, size_t answer_tokens,
           int64_t context, StepPlan& plan);
  void Commit(StepResult result, std::vector<Driven>& sequences, std::vector<Track>& tracks);

  const int64_t depth_;
  const size_t groups_;
  const bool eager_;
  std::vector<StepPlan> plans_;
  std::vector<StepResult> results_;
  int64_t voids_ = 0;
};

// One row for the sequence, if it has something to feed.
inline bool RunAhead::Add(Driven& sequence, Track& track, int32_t slot, uint32_t epoch,
                          size_t answer_tokens, int64_t context, StepPlan& plan) {
  if (track.ended || track.sampled_by.size() == answer_tokens) return false;
  const auto prompt = static_cast<int64_t>(sequence.prompt.size());
  PlanRow row;
  row.slot = slot;
  row.generation = epoch;
  row.position = sequence.fed;
  if (sequence.fed == 0) {
    Admission admission{slot, epoch, sequence.sampling, prompt, {}};
    if (sequence.sampling.needs_history()) admission.history = sequence.prompt;
    plan.admissions.push_back(std::move(admission));
  }
  if (sequence.fed < prompt) {
    const int64_t count = std::min(sequence.chunk, prompt - sequence.fed);
    row.tokens.assign(sequence.prompt.begin() + sequence.fed,
                      sequence.prompt.begin() + sequence.fed + count);
    sequence.fed += count;
  } else {
    const auto at = static_cast<size_t>(sequence.fed - prompt);
    const uint64_t from = track.sampled_by[at];
    const bool known = at < sequence.answer.tokens.size();
    const bool kept = plan.number - from <= static_cast<uint64_t>(depth_);
    if (known && !(eager_ && kept)) {
      row.tokens = {sequence.answer.tokens[at]};
    } else {
      row.tokens = {kNoToken};
      row.token_from = from;
    }
    ++sequence.fed;
  }
  row.sample = sequence.fed >= prompt;
  if (row.sample) track.sampled_by.push_back(plan.number);
  row.blocks = BlocksOfSlot(slot, sequence.fed, context);
  plan.rows.push_back(std::move(row));
  return true;
}

inline void RunAhead::Commit(StepResult result, std::vector<Driven>& sequences,
                             std::vector<Track>& tracks) {
  for (const SampledToken& sample : result.samples) {
    Driven& sequence = sequences[static_cast<size_t>(sample.slot)];
    Track& track = tracks[static_cast<size_t>(sample.slot)];
    // Void are the rows behind the end, all of them and no other.
    ASSERT_EQ(sample.token == kVoidToken, track.ended) << "slot " << sample.slot;
    if (sample.token == kVoidToken) {
      ++voids_;
      continue;
    }
    if (sample.token == kNoToken) {
      track.ended = true;
      continue;
    }
    ASSERT_EQ(sample.position, sequence.known());
    sequence.answer.tokens.push_back(sample.token);
    sequence.answer.logprobs.push_back(sample.logprob);
    const std::vector<int32_t>& stops = sequence.sampling.stop_ids;
    track.ended = std::binary_search(stops.begin(), stops.end(), sample.token);
  }
  results_.push_back(std::move(result));
}

inline void RunAhead::Run(LocalPipeline& pipeline, std::vector<Driven>& sequences,
                          size_t answer_tokens, int64_t context, uint32_t epoch,
                          uint64_t first_plan) {
  pipeline.BeginEpoch(epoch, first_plan);
  std::vector<Track> tracks(sequences.size());
  int64_t in_flight = 0;
  size_t idle = 0;  // turns without a row; in one of all groups_ there is one, if there is any
  for (uint64_t number = first_plan; in_flight > 0 || idle <= groups_;) {
    StepPlan plan;
    plan.number = number;
    plan.epoch = epoch;
    if (in_flight < depth_ && idle <= groups_) {
      const size_t group = (number + idle) % groups_;
      for (size_t i = group; i < sequences.size(); i += groups_) {
        Add(sequences[i], tracks[i], static_cast<int32_t>(i), epoch, answer_tokens, context, plan);
      }
      if (plan.rows.empty()) {
        ++idle;
        continue;
      }
      idle = 0;
      pipeline.Submit(plan);
      plans_.push_back(std::move(plan));
      ++number;
      ++in_flight;
      continue;
    }
    absl::StatusOr<StepResult> result = pipeline.Next();
    ASSERT_TRUE(IsOk(result));
    ASSERT_EQ(result->number, number - static_cast<uint64_t>(in_flight));
    --in_flight;
    ASSERT_NO_FATAL_FAILURE(Commit(*std::move(result), sequences, tracks));
  }
}

}  // namespace penstock::testing
