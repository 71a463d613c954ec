// All that crosses between the front end and a stage: numbered, self-contained plans one way,
// results the other. Plain values and integers only; proto/worker_codec.h puts them on the wire.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/sampling_params.h"

namespace penstock {

// What a stage keeps of a sequence, by slot. Sent once, in the plan that first uses the slot; a
// new epoch sends all again.
struct Admission {
  int32_t slot = 0;
  uint32_t generation = 0;  // counts the slot's users; a row of another generation is refused
  SamplingParams sampling;
  int64_t prompt_tokens = 0;
  // The sequence so far, prompt and answer; empty unless sampling.needs_history(). What the stage
  // keeps beside it is what it has sampled for this slot since.
  std::vector<int32_t> history;
};

// One sequence's part of a step: `tokens` are fed at positions position, position + 1, ...
// A plan may leave before the token that one of its rows feeds has been sampled: the row then names
// the plan that samples it, and the last stage gives the token to the first (design of plans that
// run ahead: ARCHITECTURE.md). Where that sample ended its sequence, or failed, the row is void: it
// is computed without effect, and its own sample is kVoidToken.
struct PlanRow {
  int32_t slot = 0;
  uint32_t generation = 0;
  int64_t position = 0;
  std::vector<int32_t> tokens;
  std::vector<int32_t> blocks;  // the sequence's KV blocks, covering all positions up to the last
  bool sample = false;          // sample the token that follows the last one
  // The prompt's log-probabilities: targets[i] is the token that follows tokens[i] in the prompt,
  // and its log-probability is told. Empty, or of the size of `tokens`, or, where the row reaches
  // the prompt's end, one less.
  std::vector<int32_t> targets;
  // Not 0: `tokens` is {kNoToken}, and what is fed is what the earlier plan of this number, of this
  // epoch, samples for this slot and generation at `position`.
  uint64_t token_from = 0;
  // For later versions; a stage refuses other values. The mask of allowed tokens that the sampler
  // waits for, -1: none; how many of the last tokens are drafts to be verified.
  int32_t mask = -1;
  int32_t num_drafts = 0;
};

struct StepPlan {
  uint64_t number = 0;  // from 1, over all epochs
  uint32_t epoch = 0;
  // What a stage may wait for this plan's input, from the end of its previous plan on. 0: for ever.
  int64_t limit_ns = 0;
  std::vector<Admission> admissions;
  std::vector<PlanRow> rows;

  int64_t num_tokens() const {
    int64_t sum = 0;
    for (const PlanRow& row : rows) sum += static_cast<int64_t>(row.tokens.size());
    return sum;
  }
};

// A token sampled for a row of the plan.
struct SampledToken {
  int32_t slot = 0;
  uint32_t generation = 0;
  int64_t position = 0;  // where this token stands in the sequence
  // kNoToken: the row has failed: its logits hold a NaN or an infinity, or all tokens are masked.
  // kVoidToken: an earlier plan's sample has ended the sequence, or has failed.
  int32_t token = 0;
  float logprob = 0;              // natural log, of the model's own distribution
  std::vector<TokenLogprob> top;  // the likeliest tokens, best first, if they were asked for
};

// The log-probability of a token of the prompt: one for each target of the plan's rows.
struct PromptLogprob {
  int32_t slot = 0;
  uint32_t generation = 0;
  int64_t position = 0;           // of the token in the sequence, from 1
  TokenLogprob token;             // the target, or kNoToken: no numbers there, the row has failed
  std::vector<TokenLogprob> top;  // the likeliest tokens there, best first
};

// What a stage measured of one plan, by its own monotonic clock.
struct StageTimes {
  int64_t start_ns = 0;       // when computing began; of use between stages of one host only
  int64_t compute_ns = 0;     // kernels, without waits
  int64_t wait_plan_ns = 0;   // from the end of the previous plan until this one was there
  int64_t wait_input_ns = 0;  // then, until activations (or a sampled token) were there
  int64_t send_ns = 0;        // handing the output to the transport
};

// Every stage answers every plan; samples and log-probabilities come from the last one.
struct StepResult {
  uint64_t number = 0;
  uint32_t epoch = 0;
  std::vector<SampledToken> samples;
  std::vector<PromptLogprob> prompt_logprobs;  // in the order of the plan's rows and targets
  StageTimes times;
};

}  // namespace penstock
