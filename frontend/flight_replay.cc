#include "frontend/flight_replay.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "core/base/kv_block.h"

namespace penstock {
namespace {

// What of the KV memory the rows so far have written: only rows that read nothing else can be run.
class Known {
 public:
  // The plan without the rows that cannot be run.
  StepPlan Filter(const StepPlan& plan, int64_t* left_out) {
    StepPlan kept;
    kept.number = plan.number;
    kept.epoch = plan.epoch;
    for (const Admission& admission : plan.admissions) {
      generations_[admission.slot] = admission.generation;
    }
    for (const PlanRow& row : plan.rows) {
      const bool whole = IsWhole(row);
      Write(row, whole);
      if (whole) {
        kept.rows.push_back(row);
        continue;
      }
      ++*left_out;
      generations_.erase(row.slot);
    }
    for (const Admission& admission : plan.admissions) {
      if (generations_.contains(admission.slot)) kept.admissions.push_back(admission);
    }
    return kept;
  }

 private:
  bool IsWhole(const PlanRow& row) const {
    const auto admitted = generations_.find(row.slot);
    if (admitted == generations_.end() || admitted->second != row.generation) return false;
    if (static_cast<int64_t>(row.blocks.size()) < BlocksFor(row.position)) return false;
    for (int64_t at = 0; at * kBlockSize < row.position; ++at) {
      const auto written = written_.find(row.blocks[static_cast<size_t>(at)]);
      const int64_t needed = std::min<int64_t>(kBlockSize, row.position - at * kBlockSize);
      if (written == written_.end() || written->second < needed) return false;
    }
    return true;
  }
  void Write(const PlanRow& row, bool whole) {
    const int64_t end = row.position + static_cast<int64_t>(row.tokens.size());
    for (int64_t at = row.position / kBlockSize; at * kBlockSize < end; ++at) {
      if (at >= static_cast<int64_t>(row.blocks.size())) return;
      const int64_t filled = std::min<int64_t>(kBlockSize, end - at * kBlockSize);
      written_[row.blocks[static_cast<size_t>(at)]] = whole ? filled : 0;
    }
  }

  absl::flat_hash_map<int32_t, uint32_t> generations_;  // by slot, of those that can be run
  absl::flat_hash_map<int32_t, int64_t> written_;       // by block: positions, from its first on
};

std::string Tell(const TokenLogprob& token) {
  return absl::StrFormat("token %d with the log-probability %.9g", token.token, token.logprob);
}

std::string Differs(uint64_t plan, int32_t slot, int64_t position, const TokenLogprob& was,
                    const TokenLogprob& is) {
  return absl::StrFormat("plan %d, slot %d, position %d: %s was recorded, now it is %s", plan, slot,
                         position, Tell(was), Tell(is));
}

// Where `now` is not what was recorded for the same place.
std::string Compare(const StepResult& recorded, const StepResult& now, int64_t* compared) {
  absl::flat_hash_map<int32_t, const SampledToken*> samples;
  for (const SampledToken& sample : recorded.samples) samples.emplace(sample.slot, &sample);
  for (const SampledToken& is : now.samples) {
    const auto found = samples.find(is.slot);
    if (found == samples.end()) continue;
    ++*compared;
    const SampledToken& was = *found->second;
    const TokenLogprob recorded_one{was.token, was.logprob};
    const TokenLogprob one{is.token, is.logprob};
    if (!(recorded_one == one && was.top == is.top)) {
      return Differs(now.number, is.slot, is.position, recorded_one, one);
    }
  }
  absl::flat_hash_map<std::pair<int32_t, int64_t>, const PromptLogprob*> prompts;
  for (const PromptLogprob& one : recorded.prompt_logprobs) {
    prompts.emplace(std::pair(one.slot, one.position), &one);
  }
  for (const PromptLogprob& is : now.prompt_logprobs) {
    const auto found = prompts.find({is.slot, is.position});
    if (found == prompts.end()) continue;
    ++*compared;
    const PromptLogprob& was = *found->second;
    if (!(was.token == is.token && was.top == is.top)) {
      return Differs(now.number, is.slot, is.position, was.token, is.token);
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<FlightReplay> ReplayFlight(const FlightRecord& record, StageExecutor& stage) {
  FlightReplay replay;
  if (record.entries.empty()) return replay;
  EpochStart start;
  start.epoch = record.epoch;
  start.first_plan = record.entries.front().plan.number;
  start.num_blocks = record.num_blocks;
  PENSTOCK_RETURN_IF_ERROR(stage.BeginEpoch(start));
  Known known;
  for (const FlightEntry& entry : record.entries) {
    const StepPlan plan = known.Filter(entry.plan, &replay.left_out);
    if (plan.rows.empty()) continue;
    absl::StatusOr<StepResult> result = stage.Execute(plan);
    if (!result.ok()) {
      return Annotate(result.status(), absl::StrCat("plan ", plan.number, " cannot be run"));
    }
    ++replay.plans;
    if (!entry.result || !replay.difference.empty()) continue;
    replay.difference = Compare(*entry.result, *result, &replay.compared);
  }
  return replay;
}

}  // namespace penstock
