// The stage on the CPU backend.
#include <algorithm>
#include <chrono>
#include <optional>

#include "core/base/kv_block.h"
#include "core/base/thread_pool.h"
#include "core/io/check_file.h"
#include "core/io/model_file.h"
#include "core/io/watched_source.h"
#include "core/kernels/cpu_ops.h"
#include "core/model/kv_cache.h"
#include "core/model/model_registry.h"
#include "core/model/model_tensors.h"
#include "worker/stage.h"
#include "worker/stage_sampler.h"
#include "worker/step_batcher.h"

namespace penstock {
namespace {

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

class CpuStage final : public StageExecutor {
 public:
  absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                 const ProgressCallback& progress) override;
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override;

 private:
  absl::StatusOr<StageInfo> LoadModel(const StageOptions& options,
                                      const ProgressCallback& progress);

  HostAllocator allocator_;
  std::optional<ThreadPool> pool_;
  std::optional<CpuOps> ops_;
  std::unique_ptr<Model> model_;
  std::optional<KvCache> cache_;
  std::optional<StepBatcher> batcher_;
  std::optional<StageSampler> sampler_;
};

absl::StatusOr<StageInfo> CpuStage::Load(const StageOptions& options,
                                         const ProgressCallback& progress) {
  if (model_ != nullptr) {
    return absl::FailedPreconditionError("this stage has loaded a model already");
  }
  const int64_t start = NowNs();
  PENSTOCK_ASSIGN_OR_RETURN(StageInfo info, LoadModel(options, progress));
  info.load_ns = NowNs() - start;
  return info;
}

absl::StatusOr<StageInfo> CpuStage::LoadModel(const StageOptions& options,
                                              const ProgressCallback& progress) {
  PENSTOCK_ASSIGN_OR_RETURN(const ModelFile file, OpenModel(options.model));
  const ModelConfig& config = file.config;
  const int64_t block_bytes = KvCache::BlockBytes(config, config.num_layers);
  const int64_t num_blocks =
      std::min<int64_t>(options.kv_memory_bytes / block_bytes,
                        options.max_sequences * BlocksFor(config.context_length));
  if (num_blocks < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "one KV block of this model takes ", block_bytes, " bytes, but the KV memory is ",
        options.kv_memory_bytes, " bytes: raise --kv-memory-mib"));
  }

  pool_.emplace(options.threads);
  ops_.emplace(*pool_);
  const LayerRange all{0, config.num_layers};
  ModelCheck check;
  if (!options.check_file.empty()) {
    PENSTOCK_ASSIGN_OR_RETURN(check, ReadModelCheck(options.check_file));
  }
  const int64_t total = NumParameters(config);
  const WatchedSource weights(*file.weights, options.check_file.empty() ? nullptr : &check.tensors,
                              [&](std::string_view tensor, int64_t done) {
                                progress({done, total, std::string(tensor)});
                              });
  PENSTOCK_ASSIGN_OR_RETURN(std::unique_ptr<Model> model,
                            MakeModel(config, all, weights,
                                      {options.max_step_tokens, SampleRows(options.max_sequences),
                                       options.prefill_attention, options.padded_memory_bytes},
                                      *ops_, allocator_));
  PENSTOCK_ASSIGN_OR_RETURN(KvCache cache,
                            KvCache::Make(config, config.num_layers, num_blocks, allocator_));
  const PlanLimits limits{options.max_step_tokens, options.max_sequences, config.context_length,
                          num_blocks, config.vocab_size};
  PENSTOCK_ASSIGN_OR_RETURN(StepBatcher batcher, StepBatcher::Make(limits, allocator_));
  PENSTOCK_ASSIGN_OR_RETURN(StageSampler sampler, StageSampler::Make(limits, allocator_));
  cache_.emplace(std::move(cache));
  batcher_.emplace(std::move(batcher));
  sampler_.emplace(std::move(sampler));
  model_ = std::move(model);

  StageInfo info;
  info.config = config;
  info.num_blocks = num_blocks;
  info.weight_bytes = model_->weight_bytes();
  return info;
}

absl::StatusOr<StepResult> CpuStage::Execute(const StepPlan& plan) {
  if (model_ == nullptr) return absl::FailedPreconditionError("no model has been loaded");
  const int64_t start = NowNs();
  PENSTOCK_ASSIGN_OR_RETURN(const StepBatch batch, batcher_->Build(plan));
  PENSTOCK_RETURN_IF_ERROR(sampler_->Admit(plan));
  model_->Forward(batch, *cache_);

  StepResult result;
  result.number = plan.number;
  result.epoch = plan.epoch;
  sampler_->Run(plan, *batcher_, batch, *model_, *ops_, &result);
  result.times.compute_ns = NowNs() - start;
  return result;
}

}  // namespace

std::unique_ptr<StageExecutor> MakeCpuStage() { return std::make_unique<CpuStage>(); }

}  // namespace penstock
