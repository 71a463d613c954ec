// FakeModel: a stage's model for tests of scheduling. Its next token is a function of the token
// history that it reads back from its "KV memory" by way of the plan's block tables, so that a
// wrong position, a block with two owners, or a feed that is not what was sampled gives an error or
// another answer than the request gets alone.
// Thread rule: one thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/kv_block.h"
#include "core/base/status.h"
#include "core/sched/step_plan.h"

namespace penstock {

struct FakeModelOptions {
  int64_t num_blocks = 32;
  int64_t max_sequences = 8;
  int64_t max_step_tokens = 64;
  int32_t vocab_size = 50;
  int32_t bad_token = -1;  // where this one would follow, the row fails: kNoToken
};

class FakeModel {
 public:
  explicit FakeModel(const FakeModelOptions& options)
      : options_(options), slots_(options.max_sequences), kv_(options.num_blocks * kBlockSize) {}

  // What stands for the seed in a choice's answer; choice 0 has the seed itself.
  static uint64_t ChoiceSeed(uint64_t seed, int32_t choice) {
    return seed + 0x51ed2701u * static_cast<uint64_t>(choice);
  }

  // The token that follows `history`.
  static int32_t Next(const std::vector<int32_t>& history, uint64_t seed, int32_t vocab_size) {
    uint64_t hash = seed + 0x9e3779b97f4a7c15u;
    for (int32_t token : history) {
      hash = (hash ^ static_cast<uint64_t>(token)) * 0xff51afd7ed558ccdu;
      hash ^= hash >> 29;
    }
    return static_cast<int32_t>(hash % static_cast<uint64_t>(vocab_size));
  }

  // What a request gets when nothing runs beside it; it ends before bad_token.
  std::vector<int32_t> Alone(std::vector<int32_t> prompt, int64_t max_tokens, uint64_t seed,
                             const std::set<int32_t>& end_ids) const {
    std::vector<int32_t> answer;
    while (static_cast<int64_t>(answer.size()) < max_tokens) {
      if (Next(prompt, seed, options_.vocab_size) == options_.bad_token) break;
      answer.push_back(Next(prompt, seed, options_.vocab_size));
      prompt.push_back(answer.back());
      if (end_ids.count(answer.back()) != 0) break;
    }
    return answer;
  }

  static float Logprob(int32_t token) { return -0.25f * static_cast<float>(token); }
  // The `count` likeliest tokens, wherever: 0, 1, ...
  std::vector<TokenLogprob> Top(int32_t count) const {
    std::vector<TokenLogprob> top;
    for (int32_t id = 0; id < std::min(count, options_.vocab_size); ++id) {
      top.push_back({id, Logprob(id)});
    }
    return top;
  }

  // Errors: FAILED_PRECONDITION for a plan that breaks a rule of step_plan.h or scheduler.h.
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) {
    if (plan.number != ++last_number_) return Wrong(plan, "its number is not the next");
    if (plan.rows.empty()) return Wrong(plan, "it has no rows");
    if (plan.num_tokens() > options_.max_step_tokens) return Wrong(plan, "it has too many tokens");
    std::set<int32_t> admitted;
    for (const Admission& admission : plan.admissions) {
      if (!IsSlot(admission.slot)) return Wrong(plan, "it admits to no slot");
      Slot& slot = slots_[admission.slot];
      if (admission.generation <= slot.generation) return Wrong(plan, "a generation comes again");
      slot = Slot();
      slot.generation = admission.generation;
      slot.seed = ChoiceSeed(admission.sampling.seed, admission.sampling.choice);
      slot.logprobs = admission.sampling.logprobs;
      slot.prompt_logprobs = admission.sampling.prompt_logprobs;
      slot.prompt_tokens = admission.prompt_tokens;
      slot.history = admission.history;
      const int64_t known = static_cast<int64_t>(slot.history.size());
      if (admission.sampling.needs_history() ? known < slot.prompt_tokens : known > 0) {
        return Wrong(plan, "an admission's history is not what its sampling needs");
      }
      admitted.insert(admission.slot);
    }

    StepResult result;
    result.number = plan.number;
    result.epoch = plan.epoch;
    std::set<int32_t> slots_used;
    std::set<int32_t> blocks_used;
    bool decodes_began = false;
    for (const PlanRow& row : plan.rows) {
      if (!IsSlot(row.slot)) return Wrong(plan, "a row has no slot");
      Slot& slot = slots_[row.slot];
      if (row.generation != slot.generation) return Wrong(plan, "a row's generation has left");
      if (!slots_used.insert(row.slot).second) return Wrong(plan, "a slot has two rows");
      admitted.erase(row.slot);
      for (int32_t block : row.blocks) {
        if (block < 0 || block >= options_.num_blocks) return Wrong(plan, "a block does not exist");
        if (!blocks_used.insert(block).second) return Wrong(plan, "a block has two owners");
      }
      PENSTOCK_RETURN_IF_ERROR(Feed(plan, row, slot, decodes_began));
      PENSTOCK_RETURN_IF_ERROR(Tell(plan, row, slot, result.prompt_logprobs));
      if (row.sample) result.samples.push_back(Sample(row, slot));
    }
    if (!admitted.empty()) return Wrong(plan, "an admission has no row");
    fed_tokens_ += plan.num_tokens();
    return result;
  }

  int64_t fed_tokens() const { return fed_tokens_; }

 private:
  struct Slot {
    uint32_t generation = 0;
    uint64_t seed = 0;
    int32_t logprobs = 0;
    int32_t prompt_logprobs = -1;
    int64_t prompt_tokens = 0;
    std::vector<int32_t> history;  // as admitted
    int32_t target = -1;           // the last one of the row before; -1: none
    int64_t length = 0;            // positions fed
    int32_t sampled = -1;          // the token sampled last; -1: still in the prompt
    std::vector<int32_t> read;     // the history as read back
  };
  struct Entry {
    int32_t slot = -1;
    uint32_t generation = 0;
    int64_t position = -1;
    int32_t token = -1;
  };

  static absl::Status Wrong(const StepPlan& plan, const char* what) {
    return absl::FailedPreconditionError(absl::StrCat("plan ", plan.number, ": ", what));
  }
  bool IsSlot(int32_t slot) const { return slot >= 0 && slot < options_.max_sequences; }
  Entry& At(const PlanRow& row, int64_t position) {
    return kv_[row.blocks[position / kBlockSize] * kBlockSize + position % kBlockSize];
  }

  absl::Status Feed(const StepPlan& plan, const PlanRow& row, Slot& slot, bool& decodes_began) {
    if (row.tokens.empty()) return Wrong(plan, "a row feeds nothing");
    if (row.position != slot.length) return Wrong(plan, "a row is not at the next position");
    slot.length += static_cast<int64_t>(row.tokens.size());
    if (static_cast<int64_t>(row.blocks.size()) != BlocksFor(slot.length)) {
      return Wrong(plan, "a block table does not cover the row's positions, or more");
    }
    if (slot.sampled >= 0) {
      decodes_began = true;
      if (row.tokens.size() != 1 || row.tokens[0] != slot.sampled) {
        return Wrong(plan, "a decode row does not feed the token sampled last");
      }
      if (!row.sample) return Wrong(plan, "a decode row does not sample");
    } else if (decodes_began) {
      return Wrong(plan, "a prefill row stands behind a decode row");
    }
    for (size_t i = 0; i < row.tokens.size(); ++i) {
      const int64_t position = row.position + static_cast<int64_t>(i);
      if (position < static_cast<int64_t>(slot.history.size()) &&
          slot.history[position] != row.tokens[i]) {
        return Wrong(plan, "an admission's history is not what is fed");
      }
      At(row, position) = Entry{row.slot, row.generation, position, row.tokens[i]};
    }
    slot.read.clear();
    for (int64_t position = 0; position < slot.length; ++position) {
      const Entry& entry = At(row, position);
      if (entry.slot != row.slot || entry.generation != row.generation ||
          entry.position != position) {
        return Wrong(plan, "a block holds what another sequence wrote");
      }
      slot.read.push_back(entry.token);
    }
    return absl::OkStatus();
  }

  // Checks the row's targets against what is fed, and answers them.
  absl::Status Tell(const StepPlan& plan, const PlanRow& row, Slot& slot,
                    std::vector<PromptLogprob>& told) const {
    const auto fed = static_cast<int64_t>(row.tokens.size());
    const bool asked = slot.prompt_logprobs >= 0 && slot.sampled < 0;
    const int64_t expected =
        asked ? std::min(fed, slot.prompt_tokens - 1 - row.position) : int64_t{0};
    if (static_cast<int64_t>(row.targets.size()) != expected) {
      return Wrong(plan, "a row has more or fewer targets than its prompt");
    }
    if (slot.target >= 0 && slot.target != row.tokens[0]) {
      return Wrong(plan, "a row's last target is not what is fed next");
    }
    slot.target = expected == fed ? row.targets.back() : -1;
    for (int64_t i = 0; i < expected; ++i) {
      if (i + 1 < fed && row.targets[i] != row.tokens[i + 1]) {
        return Wrong(plan, "a target is not the token that is fed next");
      }
      told.push_back({row.slot,
                      row.generation,
                      row.position + 1 + i,
                      {row.targets[i], Logprob(row.targets[i])},
                      Top(slot.prompt_logprobs)});
    }
    return absl::OkStatus();
  }

  SampledToken Sample(const PlanRow& row, Slot& slot) const {
    slot.sampled = Next(slot.read, slot.seed, options_.vocab_size);
    SampledToken sample;
    sample.slot = row.slot;
    sample.generation = row.generation;
    sample.position = slot.length;
    sample.token = slot.sampled == options_.bad_token ? kNoToken : slot.sampled;
    if (sample.token == kNoToken) return sample;
    sample.logprob = Logprob(slot.sampled);
    sample.top = Top(slot.logprobs);
    return sample;
  }

  const FakeModelOptions options_;
  std::vector<Slot> slots_;
  std::vector<Entry> kv_;
  uint64_t last_number_ = 0;
  int64_t fed_tokens_ = 0;
};

}  // namespace penstock
