// FakeModel: a whole pipeline's model for tests of scheduling. Its next token is a function of the
// token history that it reads back from its "KV memory" by way of the plan's block tables, so that
// a wrong position, a block that another sequence wrote, or a feed that is not what was sampled
// gives an error or another answer than the request gets alone. Like real KV, an entry depends on
// all tokens up to its own; whoever has the same ones may read it.
//
// Rows ahead feed from a mailbox, by slot and plan number mod plans_ahead. Where a sample has ended
// its sequence, later rows are void: they scribble over the position that they have, and answer
// kVoidToken.
// Thread rule: one thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

#include "absl/container/flat_hash_map.h"
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
  int64_t plans_ahead = 2;
};

class FakeModel {
 public:
  explicit FakeModel(const FakeModelOptions& options)
      : options_(options),
        generations_(options.max_sequences, 0),
        slots_(options.max_sequences),
        mailbox_(options.max_sequences * options.plans_ahead),
        kv_(options.num_blocks * kBlockSize) {}

  // What stands for the seed in a choice's answer; choice 0 has the seed itself.
  static uint64_t ChoiceSeed(uint64_t seed, int32_t choice) {
    return seed + 0x51ed2701u * static_cast<uint64_t>(choice);
  }

  // The token that follows `history`.
  static int32_t Next(const std::vector<int32_t>& history, uint64_t seed, int32_t vocab_size) {
    uint64_t prefix = 0;
    for (int32_t token : history) prefix = Mix(prefix, token);
    return Follow(prefix, seed, vocab_size);
  }

  // What a request gets when nothing runs beside it; it ends before bad_token.
  std::vector<int32_t> Alone(const std::vector<int32_t>& prompt, int64_t max_tokens, uint64_t seed,
                             const std::set<int32_t>& end_ids) const {
    std::vector<int32_t> answer;
    uint64_t prefix = 0;
    for (int32_t token : prompt) prefix = Mix(prefix, token);
    while (static_cast<int64_t>(answer.size()) < max_tokens) {
      const int32_t next = Follow(prefix, seed, options_.vocab_size);
      if (next == options_.bad_token) break;
      answer.push_back(next);
      prefix = Mix(prefix, next);
      if (end_ids.count(next) != 0) break;
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

  // All is forgotten, as by processes that are new; plans of this epoch, from this number on, come.
  void BeginEpoch(uint32_t epoch, uint64_t first_plan) {
    epoch_ = epoch;
    last_number_ = first_plan - 1;
    std::fill(slots_.begin(), slots_.end(), Slot());
    std::fill(mailbox_.begin(), mailbox_.end(), Letter());
    std::fill(kv_.begin(), kv_.end(), Entry());
  }

  // Errors: FAILED_PRECONDITION for a plan that breaks a rule of step_plan.h or scheduler.h.
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) {
    if (plan.number != ++last_number_) return Wrong(plan, "its number is not the next");
    if (epoch_ != 0 && plan.epoch != epoch_) return Wrong(plan, "it is of another epoch");
    if (plan.rows.empty()) return Wrong(plan, "it has no rows");
    if (plan.num_tokens() > options_.max_step_tokens) return Wrong(plan, "it has too many tokens");
    std::set<int32_t> admitted;
    for (const Admission& admission : plan.admissions) {
      PENSTOCK_RETURN_IF_ERROR(Admit(plan, admission));
      admitted.insert(admission.slot);
    }
    StepResult result;
    result.number = plan.number;
    result.epoch = plan.epoch;
    std::set<int32_t> slots_used;
    bool decodes_began = false;
    PENSTOCK_RETURN_IF_ERROR(CheckBlocks(plan));
    for (const PlanRow& row : plan.rows) {
      if (!IsSlot(row.slot)) return Wrong(plan, "a row has no slot");
      Slot& slot = slots_[row.slot];
      if (!slot.used || row.generation != generations_[row.slot]) {
        return Wrong(plan, "a row's generation has left");
      }
      if (!slots_used.insert(row.slot).second) return Wrong(plan, "a slot has two rows");
      admitted.erase(row.slot);
      if (row.tokens.size() > 1 && decodes_began) {
        return Wrong(plan, "a prefill row stands behind a decode row");
      }
      decodes_began = decodes_began || slot.sampled;
      PENSTOCK_RETURN_IF_ERROR(Run(plan, row, slot, result));
    }
    if (!admitted.empty()) return Wrong(plan, "an admission has no row");
    fed_tokens_ += plan.num_tokens();
    return result;
  }

  int64_t fed_tokens() const { return fed_tokens_; }
  int64_t voids() const { return voids_; }

 private:
  struct Slot {
    bool used = false;
    uint64_t seed = 0;
    int32_t logprobs = 0;
    int32_t prompt_logprobs = -1;
    int64_t prompt_tokens = 0;
    bool needs_history = false;
    std::vector<int32_t> stop_ids;
    std::vector<int32_t> history;  // as admitted, and what was sampled since
    int64_t length = -1;           // positions fed; -1: no row yet
    uint64_t prefix = 0;           // over the tokens that its rows have fed or found
    bool sampled = false;          // since its admission
    bool ended = false;
    std::vector<int32_t> read;  // the history as read back, where it is needed
  };
  struct Letter {  // of a mailbox
    uint64_t plan = 0;
    uint32_t generation = 0;
    int64_t position = -1;
    int32_t token = -1;
  };
  struct Entry {
    int64_t position = -1;
    int32_t token = -1;
    uint64_t prefix = 0;  // over all tokens up to this one
  };

  static uint64_t Mix(uint64_t hash, int32_t token) {
    hash = (hash ^ static_cast<uint64_t>(token)) * 0xff51afd7ed558ccdu;
    return hash ^ (hash >> 29);
  }
  // The token behind a history, of which `prefix` is the hash.
  static int32_t Follow(uint64_t prefix, uint64_t seed, int32_t vocab_size) {
    const uint64_t hash = Mix(Mix(prefix + seed + 0x9e3779b97f4a7c15u, 1), 2);
    return static_cast<int32_t>(hash % static_cast<uint64_t>(vocab_size));
  }
  static absl::Status Wrong(const StepPlan& plan, const char* what) {
    return absl::FailedPreconditionError(absl::StrCat("plan ", plan.number, ": ", what));
  }
  bool IsSlot(int32_t slot) const { return slot >= 0 && slot < options_.max_sequences; }
  Entry& At(const PlanRow& row, int64_t position) {
    return kv_[row.blocks[position / kBlockSize] * kBlockSize + position % kBlockSize];
  }
  Letter& MailOf(int32_t slot, uint64_t plan) {
    return mailbox_[slot * options_.plans_ahead +
                    static_cast<int64_t>(plan % static_cast<uint64_t>(options_.plans_ahead))];
  }

  absl::Status Admit(const StepPlan& plan, const Admission& admission) {
    if (!IsSlot(admission.slot)) return Wrong(plan, "it admits to no slot");
    if (admission.generation <= generations_[admission.slot]) {
      return Wrong(plan, "a generation comes again");
    }
    generations_[admission.slot] = admission.generation;
    Slot& slot = slots_[admission.slot];
    slot = Slot();
    slot.used = true;
    slot.seed = ChoiceSeed(admission.sampling.seed, admission.sampling.choice);
    slot.logprobs = admission.sampling.logprobs;
    slot.prompt_logprobs = admission.sampling.prompt_logprobs;
    slot.prompt_tokens = admission.prompt_tokens;
    slot.needs_history = admission.sampling.needs_history();
    slot.stop_ids = admission.sampling.stop_ids;
    slot.history = admission.history;
    const auto known = static_cast<int64_t>(slot.history.size());
    if (slot.needs_history ? known < slot.prompt_tokens : known > 0) {
      return Wrong(plan, "an admission's history is not what its sampling needs");
    }
    return absl::OkStatus();
  }

  // A block that a row writes to is in no other row's table.
  absl::Status CheckBlocks(const StepPlan& plan) const {
    absl::flat_hash_map<int32_t, bool> written;  // by block
    for (const PlanRow& row : plan.rows) {
      if (row.tokens.empty()) return Wrong(plan, "a row feeds nothing");
      const int64_t end = row.position + static_cast<int64_t>(row.tokens.size());
      if (static_cast<int64_t>(row.blocks.size()) != BlocksFor(end)) {
        return Wrong(plan, "a block table does not cover the row's positions, or more");
      }
      for (size_t i = 0; i < row.blocks.size(); ++i) {
        const int32_t block = row.blocks[i];
        if (block < 0 || block >= options_.num_blocks) return Wrong(plan, "a block does not exist");
        const bool writes = static_cast<int64_t>(i) >= row.position / kBlockSize;
        const auto [found, is_new] = written.emplace(block, writes);
        if (!is_new && (found->second || writes)) return Wrong(plan, "a block has two owners");
      }
    }
    return absl::OkStatus();
  }

  absl::Status Run(const StepPlan& plan, const PlanRow& row, Slot& slot, StepResult& result) {
    // The first row of a slot may begin behind a prefix that another sequence has computed.
    const bool is_first = slot.length < 0;
    if (is_first && row.position % kBlockSize == 0) slot.length = row.position;
    if (row.position != slot.length) return Wrong(plan, "a row is not at the next position");
    slot.length += static_cast<int64_t>(row.tokens.size());
    if (slot.sampled && (row.tokens.size() != 1 || !row.sample)) {
      return Wrong(plan, "a row behind a sample is not one token that samples");
    }
    if (slot.ended) {
      if (row.token_from == 0) return Wrong(plan, "a row of a sequence that has ended");
      ++voids_;
      At(row, row.position) = Entry();
      SampledToken sample = SampleAt(row, slot);
      sample.token = kVoidToken;
      result.samples.push_back(sample);
      return absl::OkStatus();
    }
    std::vector<int32_t> tokens = row.tokens;
    if (row.token_from != 0) {
      const Letter& letter = MailOf(row.slot, row.token_from);
      if (tokens[0] != kNoToken) return Wrong(plan, "a row names a token and a plan");
      if (row.token_from >= plan.number || letter.plan != row.token_from ||
          letter.generation != row.generation || letter.position != row.position) {
        return Wrong(plan, "a row feeds a token that its plan did not sample");
      }
      tokens[0] = letter.token;
    }
    PENSTOCK_RETURN_IF_ERROR(Feed(plan, row, tokens, is_first, slot));
    PENSTOCK_RETURN_IF_ERROR(Tell(plan, row, slot, result.prompt_logprobs));
    if (!row.sample) return absl::OkStatus();
    if (slot.needs_history) {
      if (slot.history != slot.read) return Wrong(plan, "a history is not what was fed");
    }
    SampledToken sample = SampleAt(row, slot);
    Sample(slot, sample);
    MailOf(row.slot, plan.number) = {plan.number, row.generation, sample.position, sample.token};
    result.samples.push_back(std::move(sample));
    return absl::OkStatus();
  }

  // Writes the tokens, and reads back what stands before and behind.
  absl::Status Feed(const StepPlan& plan, const PlanRow& row, const std::vector<int32_t>& tokens,
                    bool is_first, Slot& slot) {
    slot.read.clear();
    uint64_t prefix = 0;
    for (int64_t position = 0; position < slot.length; ++position) {
      Entry& entry = At(row, position);
      if (position == row.position && !is_first && prefix != slot.prefix) {
        return Wrong(plan, "a block holds what another sequence wrote");
      }
      if (position >= row.position) {
        const int32_t token = tokens[position - row.position];
        if (token < 0 || token >= options_.vocab_size) return Wrong(plan, "it feeds no token");
        entry = {position, token, Mix(prefix, token)};
      }
      prefix = Mix(prefix, entry.token);
      if (entry.position != position || entry.prefix != prefix) {
        return Wrong(plan, "a block holds what another sequence wrote");
      }
      if (slot.needs_history) slot.read.push_back(entry.token);
    }
    slot.prefix = prefix;
    return absl::OkStatus();
  }

  // Checks the row's targets against what is fed, and answers them.
  absl::Status Tell(const StepPlan& plan, const PlanRow& row, const Slot& slot,
                    std::vector<PromptLogprob>& told) const {
    if (row.targets.empty()) return absl::OkStatus();
    if (slot.prompt_logprobs < 0) return Wrong(plan, "a row has targets that nobody asked for");
    const auto fed = static_cast<int64_t>(row.tokens.size());
    const auto count = static_cast<int64_t>(row.targets.size());
    if (count != std::min(fed, slot.prompt_tokens - 1 - row.position)) {
      return Wrong(plan, "a row has more or fewer targets than its prompt");
    }
    for (int64_t i = 0; i < count; ++i) {
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

  static SampledToken SampleAt(const PlanRow& row, const Slot& slot) {
    SampledToken sample;
    sample.slot = row.slot;
    sample.generation = row.generation;
    sample.position = slot.length;
    return sample;
  }
  void Sample(Slot& slot, SampledToken& sample) const {
    slot.sampled = true;
    sample.token = Follow(slot.prefix, slot.seed, options_.vocab_size);
    if (sample.token == options_.bad_token) {
      sample.token = kNoToken;
      slot.ended = true;
      return;
    }
    const std::vector<int32_t>& stops = slot.stop_ids;
    slot.ended = std::binary_search(stops.begin(), stops.end(), sample.token);
    if (slot.needs_history) slot.history.push_back(sample.token);
    sample.logprob = Logprob(sample.token);
    sample.top = Top(slot.logprobs);
  }

  const FakeModelOptions options_;
  std::vector<uint32_t> generations_;  // by slot; they only grow
  std::vector<Slot> slots_;
  std::vector<Letter> mailbox_;  // [slot][plan mod plans_ahead]
  std::vector<Entry> kv_;
  uint32_t epoch_ = 0;  // 0: any
  uint64_t last_number_ = 0;
  int64_t fed_tokens_ = 0;
  int64_t voids_ = 0;
};

}  // namespace penstock
