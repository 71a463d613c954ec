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
  for (SamplingOutput& out : sampler.outs_) {
    PENSTOCK_RETURN_IF_ERROR(MakeTogether({{&out.tokens, DataType::kI32, {rows}},
                                           {&out.logprobs, DataType::kF32, {rows}},
                                           {&out.top_tokens, DataType::kI32, {rows, columns}},
                                           {&out.top_logprobs, DataType::kF32, {rows, columns}}},
                                          allocator));
  }
  sampler.vocab_size_ = limits.vocab_size;
  sampler.rows_.reserve(static_cast<size_t>(rows));
  sampler.wanted_.reserve(static_cast<size_t>(rows));
  return sampler;
}

void StageSampler::Begin(const Step& step, const StageSlots& slots, int place, Asked* asked) {
  asked->samples.clear();
  asked->tops.clear();
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
    SampledToken& sample = asked->samples.emplace_back();
    sample.slot = row->slot;
    sample.generation = row->generation;
    sample.position = how.position;
    asked->tops.push_back(how.top);
  }
  const SamplingOutput& out = outs_[static_cast<size_t>(place)];
  if (!rows_.empty()) {
    RunSampling(step.backend,
                step.has_logits ? step.model.LogitRows(static_cast<int64_t>(rows_.size()))
                                : step.model.Logits(step.batch.sample_tokens),
                out);
  }
  SendTokens(step.backend, out);
}

// Also where there are none: the first stage may wait for this plan.
void StageSampler::SendTokens(Backend& backend, const SamplingOutput& out) {
  if (backend.mail() != nullptr) backend.mail()->SendTokens(backend.KernelView(out.tokens));
}

void StageSampler::Finish(const Asked& asked, int place, StepResult* result) {
  const SamplingOutput& out = outs_[static_cast<size_t>(place)];
  const auto* tokens = static_cast<const int32_t*>(out.tokens.raw());
  const auto* logprobs = static_cast<const float*>(out.logprobs.raw());
  for (size_t i = 0; i < asked.samples.size(); ++i) {
    SampledToken& sample = result->samples.emplace_back(asked.samples[i]);
    sample.token = tokens[i];
    if (sample.token == kNoToken) continue;
    sample.logprob = logprobs[i];
    sample.top = Top(out, i, asked.tops[i]);
  }
}

// The logits' rows are rows_; `out` has the result once it is fetched.
void StageSampler::RunSampling(Backend& backend, const Tensor& logits, const SamplingOutput& out) {
  backend.ops().Sampling(
      logits, rows_,
      {backend.KernelView(out.tokens), backend.KernelView(out.logprobs),
       backend.KernelView(out.top_tokens), backend.KernelView(out.top_logprobs)});
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
      if (static_cast<int64_t>(rows_.size()) == outs_[0].tokens.dim(0)) flush();
    }
  }
  if (!rows_.empty()) flush();
}

// The logits at `places`, whose rows are rows_ and wanted_.
void StageSampler::TellTile(const Step& step, const Tensor& places, StepResult* result) {
  const SamplingOutput& out = outs_[0];
  RunSampling(step.backend, step.model.Logits(step.backend.KernelView(places)), out);
  step.backend.FetchOutputs();
  const auto* tokens = static_cast<const int32_t*>(out.tokens.raw());
  const auto* logprobs = static_cast<const float*>(out.logprobs.raw());
  for (size_t i = 0; i < rows_.size(); ++i) {
    PromptLogprob& told = result->prompt_logprobs.emplace_back(std::move(wanted_[i]));
    told.token.token = tokens[i];
    if (tokens[i] == kNoToken) continue;
    told.token.logprob = logprobs[i];
    told.top = Top(out, i, rows_[i].top);
  }
}

// What a row of the outputs tells of the likeliest tokens.
std::vector<TokenLogprob> StageSampler::Top(const SamplingOutput& out, size_t row,
                                            int32_t count) const {
  const auto told = std::min<int64_t>(count, vocab_size_);
  const auto begin = static_cast<int64_t>(row) * out.top_tokens.dim(1);
  const auto* tokens = static_cast<const int32_t*>(out.top_tokens.raw()) + begin;
  const auto* logprobs = static_cast<const float*>(out.top_logprobs.raw()) + begin;
  std::vector<TokenLogprob> top;
  top.reserve(static_cast<size_t>(told));
  for (int64_t i = 0; i < told; ++i) top.push_back({tokens[i], logprobs[i]});
  return top;
}

}  // namespace penstock
