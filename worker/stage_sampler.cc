#include "worker/stage_sampler.h"

#include <algorithm>
#include <utility>

#include "core/model/model_limits.h"

namespace penstock {

absl::StatusOr<StageSampler> StageSampler::Make(const PlanLimits& limits,
                                                BaseAllocator& allocator) {
  StageSampler sampler;
  const int64_t rows = SampleRows(limits.max_sequences);
  const int64_t columns = std::min<int64_t>(kMaxLogprobs, limits.vocab_size);
  SamplingOutput& out = sampler.out_;
  PENSTOCK_RETURN_IF_ERROR(MakeTogether({{&out.tokens, DataType::kI32, {rows}},
                                         {&out.logprobs, DataType::kF32, {rows}},
                                         {&out.top_tokens, DataType::kI32, {rows, columns}},
                                         {&out.top_logprobs, DataType::kF32, {rows, columns}}},
                                        allocator));
  sampler.vocab_size_ = limits.vocab_size;
  sampler.rows_.reserve(static_cast<size_t>(rows));
  sampler.wanted_.reserve(static_cast<size_t>(rows));
  return sampler;
}

void StageSampler::Run(const Step& step, StageSlots& slots, StepResult* result) {
  const bool samples = !step.batcher.sampled().empty();
  if (samples) Sample(step, slots, result);
  for (const PlanRow* row : step.batcher.voids()) {
    if (!row->sample) continue;
    SampledToken& sample = result->samples.emplace_back();
    sample.slot = row->slot;
    sample.generation = row->generation;
    sample.position = row->position + 1;
    sample.token = kVoidToken;
  }
  if (!samples) SendTokens(step.backend);
  if (step.batcher.num_targets() > 0) {
    TellPrompts(step, slots, result);
  } else if (!samples) {
    step.backend.FetchOutputs();
  }
}

// Also where there are none: the first stage may wait for this plan.
void StageSampler::SendTokens(Backend& backend) {
  if (backend.mail() != nullptr) backend.mail()->SendTokens(backend.KernelView(out_.tokens));
}

void StageSampler::Sample(const Step& step, StageSlots& slots, StepResult* result) {
  rows_.clear();
  for (const PlanRow* row : step.batcher.sampled()) {
    const StageSlots::Slot& slot = slots.At(row->slot);
    SamplingRow& how = rows_.emplace_back();
    how.params = &slot.sampling;
    how.position = row->position + static_cast<int64_t>(row->tokens.size());
    how.prompt_tokens = slot.prompt_tokens;
    how.history = slot.history.tokens();
    how.counts = slot.history.counts();
    how.top = slot.sampling.logprobs;
  }
  RunSampling(step.backend, step.has_logits
                                ? step.model.LogitRows(static_cast<int64_t>(rows_.size()))
                                : step.model.Logits(step.batch.sample_tokens));
  SendTokens(step.backend);
  step.backend.FetchOutputs();
  const auto* tokens = static_cast<const int32_t*>(std::as_const(out_.tokens).raw());
  const auto* logprobs = static_cast<const float*>(std::as_const(out_.logprobs).raw());
  for (size_t i = 0; i < rows_.size(); ++i) {
    const PlanRow& row = *step.batcher.sampled()[i];
    SampledToken& sample = result->samples.emplace_back();
    sample.slot = row.slot;
    sample.generation = row.generation;
    sample.position = rows_[i].position;
    sample.token = tokens[i];
    if (sample.token == kNoToken) continue;
    sample.logprob = logprobs[i];
    sample.top = Top(i);
    StageSlots::Slot& slot = slots.At(row.slot);
    if (slot.sampling.needs_history()) slot.history.Append(sample.token);
  }
}

// The logits' rows are rows_; out_ has the result once it is fetched.
void StageSampler::RunSampling(Backend& backend, const Tensor& logits) {
  backend.ops().Sampling(
      logits, rows_,
      {backend.KernelView(out_.tokens), backend.KernelView(out_.logprobs),
       backend.KernelView(out_.top_tokens), backend.KernelView(out_.top_logprobs)});
}

void StageSampler::TellPrompts(const Step& step, const StageSlots& slots, StepResult* result) {
  int64_t done = 0;
  rows_.clear();
  wanted_.clear();
  const auto flush = [&] {
    const auto count = static_cast<int64_t>(rows_.size());
    TellTile(step, step.batcher.target_tokens(done, count), result);
    done += count;
    rows_.clear();
    wanted_.clear();
  };
  for (const PlanRow& row : step.plan.rows) {
    const StageSlots::Slot& slot = slots.At(row.slot);
    for (size_t i = 0; i < row.targets.size(); ++i) {
      SamplingRow& how = rows_.emplace_back();
      how.params = &slot.sampling;
      how.position = row.position + 1 + static_cast<int64_t>(i);
      how.top = slot.sampling.prompt_logprobs;
      how.target = row.targets[i];
      wanted_.push_back({row.slot, row.generation, how.position, {}, {}});
      if (static_cast<int64_t>(rows_.size()) == out_.tokens.dim(0)) flush();
    }
  }
  if (!rows_.empty()) flush();
}

// The logits at `places`, whose rows are rows_ and wanted_.
void StageSampler::TellTile(const Step& step, const Tensor& places, StepResult* result) {
  RunSampling(step.backend, step.model.Logits(step.backend.KernelView(places)));
  step.backend.FetchOutputs();
  const auto* tokens = static_cast<const int32_t*>(std::as_const(out_.tokens).raw());
  const auto* logprobs = static_cast<const float*>(std::as_const(out_.logprobs).raw());
  for (size_t i = 0; i < rows_.size(); ++i) {
    PromptLogprob& told = result->prompt_logprobs.emplace_back(std::move(wanted_[i]));
    told.token.token = tokens[i];
    if (tokens[i] == kNoToken) continue;
    told.token.logprob = logprobs[i];
    told.top = Top(i);
  }
}

// What the row at hand tells of the likeliest tokens.
std::vector<TokenLogprob> StageSampler::Top(size_t row) const {
  const auto count = std::min<int64_t>(rows_[row].top, vocab_size_);
  const auto begin = static_cast<int64_t>(row) * out_.top_tokens.dim(1);
  const auto* tokens = static_cast<const int32_t*>(out_.top_tokens.raw()) + begin;
  const auto* logprobs = static_cast<const float*>(out_.top_logprobs.raw()) + begin;
  std::vector<TokenLogprob> top;
  top.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) top.push_back({tokens[i], logprobs[i]});
  return top;
}

}  // namespace penstock
