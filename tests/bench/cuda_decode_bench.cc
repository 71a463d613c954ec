// Decode steps of a whole model on a GPU, as graphs and kernel by kernel: a step's time as a stage
// has it, from the plan to the sampled tokens, and the time that its kernels take back to back.
// usage: cuda_decode_bench MODEL ROWS...  (1 8 64; each row has some 1,000 positions). Both must
// give the same tokens. Prints one JSON line a number of rows, and what keeping each size took.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "core/base/check.h"
#include "core/io/model_file.h"
#include "core/model/kv_cache.h"
#include "core/model/model_registry.h"
#include "cuda/cuda_backend.h"
#include "worker/stage_sampler.h"
#include "worker/stage_slots.h"
#include "worker/step_batcher.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kContext = 1000;
constexpr int64_t kSteps = 32;
constexpr int64_t kStepTokens = 512;
constexpr int32_t kSlotBlocks = 17;
static_assert(kContext + kSteps <= kSlotBlocks * kBlockSize);
constexpr int kRounds = 5;
constexpr int kBackToBack = 20;

double Micros(Clock::time_point since) {
  return std::chrono::duration<double, std::micro>(Clock::now() - since).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "cuda_decode_bench: %s\n", std::string(value.status().message()).c_str());
  std::exit(1);
}

// What ModelStage does in a step, with the choice between graphs and launches left open.
class Stage {
 public:
  Stage(const std::string& path, int32_t slots) : slots_(slots, /*samples=*/true) {
    const ModelFile file = Must(OpenModel(path));
    config_ = file.config;
    CudaBackendOptions options;
    options.heads = {config_.num_heads, config_.num_kv_heads, config_.head_dim};
    options.vocab_size = config_.vocab_size;
    options.max_sequences = slots;
    backend_ = Must(MakeCudaBackend(options));
    model_ = Must(MakeModel(
        config_, {0, config_.num_layers}, *file.weights,
        {.max_tokens = kStepTokens, .max_samples = SampleRows(slots), .precision = DataType::kBF16},
        backend_->ops(), {backend_->memory(), host_, [&](const auto& packed) {
                            return backend_->PlaceWeight(packed);
                          }}));
    const int64_t blocks = int64_t{slots} * kSlotBlocks;
    cache_ = Must(
        KvCache::Make(config_, config_.num_layers, blocks, backend_->memory(), DataType::kBF16));
    const PlanLimits limits = {kStepTokens, slots, config_.context_length, blocks,
                               config_.vocab_size};
    batcher_ = Must(StepBatcher::Make(limits, backend_->inputs()));
    batcher_.PadDecodes(backend_->DecodeSizes(slots));
    sampler_ = Must(StageSampler::Make(limits, backend_->outputs()));
    for (Tensor* tensor : {&out_.tokens, &out_.logprobs}) {
      const DataType type = tensor == &out_.tokens ? DataType::kI32 : DataType::kF32;
      *tensor = Must(Tensor::Make(type, {slots}, backend_->outputs()));
    }
  }

  // Fills all slots; next() has what follows.
  void Prefill() {
    next_.assign(static_cast<size_t>(batcher_slots()), 0);
    for (int32_t slot = 0; slot < batcher_slots(); ++slot) {
      for (int64_t fed = 0; fed < kContext;) {
        StepPlan plan;
        if (fed == 0) {
          Admission& admission = plan.admissions.emplace_back();
          admission.slot = slot;
          admission.generation = 1;
          admission.sampling.temperature = 0;
        }
        std::vector<int32_t> tokens;
        for (; fed + static_cast<int64_t>(tokens.size()) < kContext &&
               static_cast<int64_t>(tokens.size()) < kStepTokens;) {
          const int64_t at = fed + static_cast<int64_t>(tokens.size());
          tokens.push_back(
              static_cast<int32_t>((slot * 7919 + at * at * 31 + 17) % config_.vocab_size));
        }
        const int64_t position = fed;
        fed += static_cast<int64_t>(tokens.size());
        plan.rows.push_back(Row(slot, position, std::move(tokens)));
        next_[static_cast<size_t>(slot)] = Step(plan, false)[0];
      }
    }
  }

  // kSteps from the prompts' ends on: the tokens, and each step's microseconds.
  std::vector<int32_t> Decode(int32_t rows, bool graphs, std::vector<double>* times) {
    std::vector<int32_t> feed(next_.begin(), next_.begin() + rows);
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < kSteps; ++i) {
      const Clock::time_point start = Clock::now();
      feed = Step(DecodePlan(feed, kContext + i), graphs);
      times->push_back(Micros(start));
      tokens.insert(tokens.end(), feed.begin(), feed.end());
    }
    return tokens;
  }

  // Microseconds of a step's kernels, sampling with the copy of its parameters included, when the
  // GPU never waits for the host.
  double BackToBack(int32_t rows, bool graphs) {
    const std::vector<int32_t> feed(next_.begin(), next_.begin() + rows);
    const StepPlan plan = DecodePlan(feed, kContext + kSteps / 2);
    const StepBatch batch = Prepare(plan);
    std::vector<SamplingRow> how(static_cast<size_t>(rows));
    for (size_t r = 0; r < how.size(); ++r) {
      how[r].params = &slots_.At(static_cast<int32_t>(r)).sampling;
      how[r].position = kContext;
    }
    const SamplingOutput out = {
        backend_->KernelView(out_.tokens), backend_->KernelView(out_.logprobs), {}, {}};
    std::vector<double> times;
    for (int round = 0; round < kRounds; ++round) {
      const Clock::time_point start = Clock::now();
      for (int i = 0; i < kBackToBack; ++i) {
        Enqueue(batch, graphs);
        backend_->ops().Sampling(model_->LogitRows(rows), how, out);
      }
      backend_->FetchOutputs();
      times.push_back(Micros(start) / kBackToBack);
    }
    return Median(times);
  }

  // Runs every size twice, and prints what keeping it took.
  void Warm() {
    const int64_t most = batcher_slots();
    for (const int64_t rows : backend_->DecodeSizes(most)) {
      const std::vector<int32_t> feed(next_.begin(), next_.begin() + rows);
      Step(DecodePlan(feed, kContext), false);
      const int64_t before = backend_->DeviceBytesInUse();
      Clock::time_point start = Clock::now();
      Step(DecodePlan(feed, kContext), false);
      const double launched = Micros(start);
      start = Clock::now();
      Step(DecodePlan(feed, kContext), true);
      std::printf("{\"size\": %ld, \"kept_in_ms\": %.2f, \"kib\": %ld}\n", rows,
                  (Micros(start) - launched) * 1e-3, (backend_->DeviceBytesInUse() - before) >> 10);
    }
    backend_->EndWarming();
  }

  int64_t device_bytes() const { return backend_->DeviceBytesInUse(); }

 private:
  int32_t batcher_slots() const { return static_cast<int32_t>(out_.tokens.dim(0)); }

  static PlanRow Row(int32_t slot, int64_t position, std::vector<int32_t> tokens) {
    PlanRow row;
    row.slot = slot;
    row.generation = 1;
    row.position = position;
    const auto end = position + static_cast<int64_t>(tokens.size());
    row.tokens = std::move(tokens);
    row.blocks.resize(static_cast<size_t>(BlocksFor(end)));
    std::iota(row.blocks.begin(), row.blocks.end(), slot * kSlotBlocks);
    row.sample = true;
    return row;
  }
  static StepPlan DecodePlan(const std::vector<int32_t>& feed, int64_t position) {
    StepPlan plan;
    for (size_t slot = 0; slot < feed.size(); ++slot) {
      plan.rows.push_back(Row(static_cast<int32_t>(slot), position, {feed[slot]}));
    }
    return plan;
  }

  StepBatch Prepare(const StepPlan& plan) {
    StepBatch batch = Must(batcher_.Build(plan));
    PENSTOCK_CHECK(slots_.Admit(plan, {}).ok());
    backend_->SendInputs(batcher_.used());
    for (Tensor* tensor : {&batch.token_ids, &batch.positions, &batch.kv_slots, &batch.row_starts,
                           &batch.context_lens, &batch.block_tables, &batch.sample_tokens}) {
      *tensor = backend_->KernelView(*tensor);
    }
    return batch;
  }

  void Enqueue(const StepBatch& batch, bool graphs) {
    const auto enqueue = [&] {
      model_->Forward(batch, cache_);
      static_cast<void>(model_->Logits(batch.sample_tokens));
    };
    if (graphs) return backend_->RunDecodes(batch.num_rows(), enqueue);
    enqueue();
  }

  std::vector<int32_t> Step(const StepPlan& plan, bool graphs) {
    const StepBatch batch = Prepare(plan);
    Enqueue(batch, graphs);
    StageSampler::Asked asked;
    sampler_->Begin({plan, batcher_, batch, /*has_logits=*/true, *model_, *backend_}, slots_,
                    /*place=*/0, &asked);
    backend_->FetchOutputs();
    StepResult result;
    sampler_->Finish(asked, /*place=*/0, &result);
    std::vector<int32_t> tokens;
    for (const SampledToken& sample : result.samples) tokens.push_back(sample.token);
    return tokens;
  }

  HostAllocator host_;
  ModelConfig config_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  KvCache cache_;
  StepBatcher batcher_;
  StageSlots slots_;
  std::optional<StageSampler> sampler_;
  SamplingOutput out_;
  std::vector<int32_t> next_;
};

int Main(int argc, char** argv) {
  std::vector<int32_t> rows;
  for (int i = 2; i < argc; ++i) rows.push_back(std::atoi(argv[i]));
  if (rows.empty() || *std::min_element(rows.begin(), rows.end()) < 1) {
    std::fprintf(stderr, "usage: cuda_decode_bench MODEL ROWS...\n");
    return 2;
  }
  const Clock::time_point start = Clock::now();
  Stage stage(argv[1], *std::max_element(rows.begin(), rows.end()));
  std::printf("loaded in %.1f s\n", Micros(start) * 1e-6);
  stage.Prefill();
  stage.Warm();
  const int64_t bytes = stage.device_bytes();
  for (const int32_t count : rows) {
    std::vector<double> times[2];
    std::vector<int32_t> tokens[2];
    for (int round = 0; round < kRounds; ++round) {
      for (const bool graphs : {false, true}) {
        tokens[graphs] = stage.Decode(count, graphs, &times[graphs]);
      }
      PENSTOCK_CHECK(tokens[0] == tokens[1]);
    }
    const double launched = Median(times[0]);
    const double graph = Median(times[1]);
    const double launched_busy = stage.BackToBack(count, false);
    const double graph_busy = stage.BackToBack(count, true);
    std::printf(
        "{\"rows\": %d, \"context\": %ld, \"launched_ms\": %.3f, \"graph_ms\": %.3f, "
        "\"launched_back_to_back_ms\": %.3f, \"graph_back_to_back_ms\": %.3f, "
        "\"graph_idle_us\": %.1f}\n",
        count, kContext + kSteps / 2, launched * 1e-3, graph * 1e-3, launched_busy * 1e-3,
        graph_busy * 1e-3, graph - graph_busy);
  }
  std::printf("device memory since warming: %+ld bytes\n", stage.device_bytes() - bytes);
  return 0;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) { return penstock::Main(argc, argv); }
