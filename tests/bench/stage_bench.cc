// One stage on the CPU backend: load time, prefill and decode rates, beside this machine's read
// bandwidth. usage: stage_bench MODEL [THREADS] [flash|padded]; prints one JSON line. Before it
// times anything it checks that decode in a batch gives the tokens that decode alone gives.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "core/base/check.h"
#include "core/base/kv_block.h"
#include "worker/ceilings.h"
#include "worker/stage.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int32_t kSlots = 32;
constexpr int32_t kSlotBlocks = 10;  // 640 positions a slot
constexpr int64_t kDecodeTokens = 64;
constexpr int kRuns = 5;

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<int32_t> Prompt(int32_t slot, int64_t length, int64_t vocab) {
  std::vector<int32_t> prompt;
  uint64_t state = 1 + static_cast<uint64_t>(slot);
  for (int64_t i = 0; i < length; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    prompt.push_back(static_cast<int32_t>(17 + (state >> 33) % static_cast<uint64_t>(vocab - 17)));
  }
  return prompt;
}

class Bench {
 public:
  explicit Bench(StageExecutor& stage, int64_t vocab) : stage_(stage), vocab_(vocab) {}

  // Feeds a prompt of `length` tokens to each slot, one after the other; seconds.
  double Prefill(int32_t slots, int64_t length) {
    ++generation_;
    position_ = length;
    next_.assign(static_cast<size_t>(slots), 0);
    const Clock::time_point start = Clock::now();
    for (int32_t slot = 0; slot < slots; ++slot) {
      StepPlan plan;
      Admission& admission = plan.admissions.emplace_back();
      admission.slot = slot;
      admission.generation = generation_;
      admission.sampling.temperature = 0;
      plan.rows.push_back(Row(slot, 0, Prompt(slot, length, vocab_)));
      Run(plan);
    }
    return Seconds(start);
  }

  // One token for each slot, kDecodeTokens times; seconds. tokens() has what came.
  double Decode() {
    tokens_.assign(next_.size(), {});
    const Clock::time_point start = Clock::now();
    for (int64_t i = 0; i < kDecodeTokens; ++i) {
      StepPlan plan;
      for (size_t slot = 0; slot < next_.size(); ++slot) {
        tokens_[slot].push_back(next_[slot]);
        plan.rows.push_back(Row(static_cast<int32_t>(slot), position_, {next_[slot]}));
      }
      ++position_;
      Run(plan);
    }
    return Seconds(start);
  }

  const std::vector<std::vector<int32_t>>& tokens() const { return tokens_; }

 private:
  PlanRow Row(int32_t slot, int64_t position, std::vector<int32_t> tokens) const {
    PlanRow row;
    row.slot = slot;
    row.generation = generation_;
    row.position = position;
    row.tokens = std::move(tokens);
    row.blocks.resize(kSlotBlocks);
    std::iota(row.blocks.begin(), row.blocks.end(), slot * kSlotBlocks);
    row.sample = true;
    return row;
  }

  void Run(const StepPlan& plan) {
    const absl::StatusOr<StepResult> result = stage_.Execute(plan);
    PENSTOCK_CHECK(result.ok());
    for (const SampledToken& sample : result->samples) {
      next_[static_cast<size_t>(sample.slot)] = sample.token;
    }
  }

  StageExecutor& stage_;
  const int64_t vocab_;
  uint32_t generation_ = 0;
  int64_t position_ = 0;
  std::vector<int32_t> next_;                 // by slot: the token to feed
  std::vector<std::vector<int32_t>> tokens_;  // by slot: fed by Decode
};

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: stage_bench MODEL [THREADS] [flash|padded]\n");
    return 2;
  }
  StageOptions options;
  options.model = argv[1];
  options.threads = argc > 2 ? std::atoi(argv[2]) : 0;
  const bool padded = argc > 3 && std::string(argv[3]) == "padded";
  if (padded) options.prefill_attention = PrefillAttention::kPadded;
  options.kv_memory_bytes = int64_t{1} << 30;
  options.max_sequences = kSlots;
  std::vector<double> loads;
  for (int run = 0; run < kRuns; ++run) {
    const absl::StatusOr<StageInfo> info = MakeModelStage()->Load(options);
    if (!info.ok()) {
      std::fprintf(stderr, "stage_bench: %s\n", std::string(info.status().message()).c_str());
      return 1;
    }
    loads.push_back(static_cast<double>(info->load_ns) * 1e-9);
  }
  const std::unique_ptr<StageExecutor> stage = MakeModelStage();
  const absl::StatusOr<StageInfo> info = stage->Load(options);
  PENSTOCK_CHECK(info.ok());
  PENSTOCK_CHECK_GE(info->num_blocks, kSlots * kSlotBlocks);
  Bench bench(*stage, info->config.vocab_size);

  bench.Prefill(1, 128);
  bench.Decode();
  const std::vector<int32_t> alone = bench.tokens()[0];
  bench.Prefill(kSlots, 128);
  bench.Decode();
  PENSTOCK_CHECK(bench.tokens()[0] == alone);

  const auto decode_rate = [&](int32_t slots) {
    std::vector<double> rates;
    for (int run = 0; run < kRuns; ++run) {
      bench.Prefill(slots, 128);
      rates.push_back(static_cast<double>(slots * kDecodeTokens) / bench.Decode());
    }
    return Median(rates);
  };
  std::vector<double> prefills;
  for (int run = 0; run < kRuns; ++run) prefills.push_back(512 / bench.Prefill(1, 512));
  std::printf(
      "{\"threads\": %d, \"prefill_attention\": \"%s\", \"load_s\": %.3f, "
      "\"prefill_512_tok_s\": %.1f, \"decode_1_tok_s\": %.1f, "
      "\"decode_8_tok_s\": %.1f, \"decode_32_tok_s\": %.1f, \"read_gb_s\": %.1f}\n",
      options.threads, padded ? "padded" : "flash", Median(loads), Median(prefills), decode_rate(1),
      decode_rate(8), decode_rate(32),
      MeasureCeilings("cpu", DataType::kF32, options.threads)->read_bytes_per_second * 1e-9);
  return 0;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) { return penstock::Main(argc, argv); }
