#include "frontend/model_bench.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "core/base/kv_block.h"
#include "core/base/quoted.h"
#include "core/model/model_tensors.h"

namespace penstock {
namespace {

constexpr std::string_view kPrefill = "prefill:";
constexpr int64_t kWarmSteps = 5;
// The prompts that fill the contexts bring a GPU to the limit of its power, which slows down what
// comes next, the more the longer they were: steps are timed after a rest.
constexpr std::chrono::seconds kRest(1);
constexpr int64_t kLongestStep = 2048;  // tokens, of the steps that fill contexts
constexpr int32_t kLogprobs = 8;

// Positions that `count` tokens from `first` on see together, each itself included.
double Visible(const ModelConfig& config, int64_t first, int64_t count) {
  double sum = 0;
  for (int64_t position = first; position < first + count; ++position) {
    const int64_t seen = position + 1;
    sum += static_cast<double>(config.sliding_window > 0 ? std::min(seen, config.sliding_window)
                                                         : seen);
  }
  return sum;
}

int32_t PromptToken(int64_t slot, int64_t position, int64_t vocab_size) {
  uint64_t mixed = static_cast<uint64_t>(slot) << 32 ^ static_cast<uint64_t>(position);
  mixed = (mixed + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9;
  mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB;
  return static_cast<int32_t>((mixed >> 33) % static_cast<uint64_t>(vocab_size));
}

bool SameTokens(const std::vector<SampledToken>& a, const std::vector<SampledToken>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const SampledToken& x, const SampledToken& y) {
                      return x.slot == y.slot && x.token == y.token;
                    });
}

void SortBySlot(std::vector<SampledToken>* samples) {
  std::sort(samples->begin(), samples->end(),
            [](const SampledToken& a, const SampledToken& b) { return a.slot < b.slot; });
}

}  // namespace

absl::StatusOr<StepCase> StepCase::Parse(std::string_view text) {
  StepCase step;
  std::string_view rest = text;
  if (rest.starts_with(kPrefill)) {
    step.is_prefill = true;
    rest.remove_prefix(kPrefill.size());
  }
  const size_t cross = rest.find('x');
  constexpr int64_t kMost = 1 << 24;
  const bool is_read = cross != std::string_view::npos &&
                       absl::SimpleAtoi(Abs(rest.substr(0, cross)), &step.batch) &&
                       absl::SimpleAtoi(Abs(rest.substr(cross + 1)), &step.tokens);
  if (is_read && step.batch >= 1 && step.tokens >= 1 && step.batch <= kMost &&
      step.tokens <= kMost) {
    return step;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text),
                   " is no case: write BATCHxCONTEXT for a decode step, as in 8x1024, or "
                   "prefill:PROMPTSxTOKENS, as in prefill:1x2048"));
}

std::string StepCase::Name() const {
  return absl::StrCat(is_prefill ? Abs(kPrefill) : "", batch, "x", tokens);
}

double StepCost::FloorSeconds(const StepCase& step, const DeviceCeilings& ceilings) const {
  if (ceilings.read_bytes_per_second <= 0) return 0;
  if (step.is_prefill && ceilings.flops_per_second <= 0) return 0;
  const auto seconds = [&](double of_bytes, double of_flops) {
    const double computing =
        ceilings.flops_per_second > 0 ? of_flops / ceilings.flops_per_second : 0;
    return std::max(of_bytes / ceilings.read_bytes_per_second, computing);
  };
  return seconds(weight_bytes, linear_flops) + seconds(kv_bytes, attention_flops);
}

StepCost CostOf(const StepCase& step, const ModelConfig& config, int64_t weight_bytes,
                int64_t token_kv_bytes) {
  const auto table = static_cast<double>(config.vocab_size * config.hidden_size);
  const double layers =
      static_cast<double>(NumParameters(config)) - table * (config.tied_embeddings ? 1 : 2);
  const auto batch = static_cast<double>(step.batch);
  const int64_t fed = step.is_prefill ? step.tokens : 1;
  const double visible = Visible(config, step.tokens - fed, fed);
  StepCost cost;
  cost.weight_bytes = static_cast<double>(weight_bytes);
  cost.kv_bytes = batch * static_cast<double>(token_kv_bytes) *
                  (step.is_prefill ? static_cast<double>(step.tokens) : visible);
  cost.linear_flops = 2 * batch * (static_cast<double>(fed) * layers + table);
  cost.attention_flops =
      4 * batch * visible * static_cast<double>(config.num_layers * config.q_size());
  return cost;
}

BenchRoom RoomFor(const std::vector<StepCase>& cases) {
  BenchRoom room;
  for (const StepCase& step : cases) {
    const int64_t fed = step.batch * step.tokens;
    room.max_sequences = std::max(room.max_sequences, step.batch);
    room.num_blocks = std::max(room.num_blocks, step.batch * BlocksFor(step.tokens));
    room.max_step_tokens = std::max(
        {room.max_step_tokens, step.batch, step.is_prefill ? fed : std::min(fed, kLongestStep)});
  }
  return room;
}

absl::StatusOr<StepTimes> ModelBench::Run(const StepCase& step, int64_t steps) {
  PENSTOCK_RETURN_IF_ERROR(Check(step));
  if (!step.is_prefill) PENSTOCK_RETURN_IF_ERROR(FeedPrompts(step, 0).status());
  if (stage_.device_memory().allocations > 0) std::this_thread::sleep_for(kRest);
  std::vector<double> seconds;
  std::vector<SampledToken> first;
  const bool runs_ahead = stage_.runs_ahead();
  std::array<StepPlan, 2> plans;  // the step at hand, and the next
  size_t at = 0;
  std::chrono::steady_clock::time_point start;
  bool is_begun = false;
  for (int64_t i = -kWarmSteps; i < steps; ++i) {
    if (!is_begun) {
      plans[at] = NextPlan(step);
      start = std::chrono::steady_clock::now();
      if (runs_ahead) PENSTOCK_RETURN_IF_ERROR(stage_.Begin(plans[at]));
    }
    is_begun = false;
    if (runs_ahead && !step.is_prefill && i + 1 < steps) {
      plans[1 - at] = NextPlan(step);
      PENSTOCK_RETURN_IF_ERROR(stage_.Begin(plans[1 - at]));
      is_begun = true;
    }
    PENSTOCK_ASSIGN_OR_RETURN(const StepResult result,
                              runs_ahead ? stage_.Finish() : stage_.Execute(plans[at]));
    at = 1 - at;
    const auto end = std::chrono::steady_clock::now();
    const std::chrono::duration<double> time = end - std::exchange(start, end);
    if (first.empty()) first = result.samples;
    if (static_cast<int64_t>(first.size()) != step.batch || !SameTokens(first, result.samples)) {
      return absl::DataLossError(absl::StrCat(
          "case ", step.Name(), ": the same step gave other tokens when it was run again"));
    }
    if (i >= 0) seconds.push_back(time.count());
  }
  std::sort(seconds.begin(), seconds.end());
  const size_t count = seconds.size();
  return StepTimes{seconds[count / 2], seconds[count * 9 / 10], steps};
}

StepPlan ModelBench::NextPlan(const StepCase& step) {
  StepPlan plan = step.is_prefill ? PromptPlan(step) : DecodePlan(step);
  plan.number = ++number_;
  return plan;
}

// Two ways to the same numbers: all tokens of a prompt at once, and its last one over the keys and
// values of those before.
absl::Status ModelBench::Check(const StepCase& step) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<SampledToken> prompts, FeedPrompts(step, kLogprobs));
  PENSTOCK_ASSIGN_OR_RETURN(std::vector<SampledToken> decodes, Execute(DecodePlan(step)));
  SortBySlot(&decodes);
  if (prompts.size() != decodes.size() || static_cast<int64_t>(prompts.size()) != step.batch) {
    return absl::DataLossError(
        absl::StrCat("case ", step.Name(), ": not every sequence has a next token"));
  }
  for (size_t i = 0; i < prompts.size(); ++i) {
    const absl::Status same = Compare(prompts[i], decodes[i]);
    if (same.ok()) continue;
    return absl::DataLossError(
        absl::StrCat("case ", step.Name(), ", sequence ", i, ": ", Abs(Message(same))));
  }
  return absl::OkStatus();
}

absl::Status ModelBench::Compare(const SampledToken& prompt, const SampledToken& decode) const {
  if (prompt.slot != decode.slot || prompt.token < 0 || decode.token < 0) {
    return absl::DataLossError("there are no numbers to choose a token by");
  }
  // How likely the one finds the other's token.
  const auto find = [](const SampledToken& in, int32_t token) {
    if (in.token == token) return static_cast<double>(in.logprob);
    for (const TokenLogprob& each : in.top) {
      if (each.token == token) return static_cast<double>(each.logprob);
    }
    return std::nan("");
  };
  for (const int32_t token : {prompt.token, decode.token}) {
    const double difference = std::abs(find(prompt, token) - find(decode, token));
    const double tie = std::max(std::abs(prompt.logprob - find(prompt, token)),
                                std::abs(decode.logprob - find(decode, token)));
    const double error = std::max(difference, tie);
    if (error <= tolerance_) continue;  // NaN is not

    return absl::DataLossError(absl::StrFormat(
        "the whole prompt gives token %d (log-probability %.4f), its last token alone %d (%.4f); "
        "for token %d they are %.4f apart, more than %.4f",
        prompt.token, prompt.logprob, decode.token, decode.logprob, token, error, tolerance_));
  }
  return absl::OkStatus();
}

void ModelBench::Admit(const StepCase& step, int32_t logprobs, StepPlan* plan) {
  ++generation_;
  for (int64_t slot = 0; slot < step.batch; ++slot) {
    Admission& admission = plan->admissions.emplace_back();
    admission.slot = static_cast<int32_t>(slot);
    admission.generation = generation_;
    admission.prompt_tokens = step.tokens;
    admission.sampling.temperature = 0;
    admission.sampling.logprobs = logprobs;
  }
}

PlanRow ModelBench::Row(const StepCase& step, int64_t slot, int64_t first, int64_t count) const {
  PlanRow row;
  row.slot = static_cast<int32_t>(slot);
  row.generation = generation_;
  row.position = first;
  for (int64_t i = first; i < first + count; ++i) {
    row.tokens.push_back(PromptToken(slot, i, vocab_size_));
  }
  const int64_t blocks = BlocksFor(step.tokens);
  row.blocks.resize(static_cast<size_t>(blocks));
  std::iota(row.blocks.begin(), row.blocks.end(), static_cast<int32_t>(slot * blocks));
  row.sample = first + count == step.tokens;
  return row;
}

absl::StatusOr<std::vector<SampledToken>> ModelBench::Execute(StepPlan plan) {
  plan.number = ++number_;
  PENSTOCK_ASSIGN_OR_RETURN(StepResult result, stage_.Execute(plan));
  return std::move(result.samples);
}

absl::StatusOr<std::vector<SampledToken>> ModelBench::FeedPrompts(const StepCase& step,
                                                                  int32_t logprobs) {
  std::vector<SampledToken> next;
  StepPlan plan;
  Admit(step, logprobs, &plan);
  int64_t room = max_step_tokens_;
  for (int64_t slot = 0; slot < step.batch; ++slot) {
    for (int64_t fed = 0; fed < step.tokens;) {
      const int64_t count = std::min(room, step.tokens - fed);
      plan.rows.push_back(Row(step, slot, fed, count));
      fed += count;
      room -= count;
      const bool is_last = slot + 1 == step.batch && fed == step.tokens;
      if (room > 0 && !is_last) continue;
      PENSTOCK_ASSIGN_OR_RETURN(const std::vector<SampledToken> samples,
                                Execute(std::exchange(plan, {})));
      next.insert(next.end(), samples.begin(), samples.end());
      room = max_step_tokens_;
    }
  }
  SortBySlot(&next);
  return next;
}

StepPlan ModelBench::DecodePlan(const StepCase& step) const {
  StepPlan plan;
  for (int64_t slot = 0; slot < step.batch; ++slot) {
    plan.rows.push_back(Row(step, slot, step.tokens - 1, 1));
  }
  return plan;
}

StepPlan ModelBench::PromptPlan(const StepCase& step) {
  StepPlan plan;
  Admit(step, 0, &plan);
  for (int64_t slot = 0; slot < step.batch; ++slot) {
    plan.rows.push_back(Row(step, slot, 0, step.tokens));
  }
  return plan;
}

}  // namespace penstock
