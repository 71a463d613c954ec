// The stage on the CPU backend.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/io/check_file.h"
#include "core/io/model_file.h"
#include "core/io/model_hash.h"
#include "core/io/watched_source.h"
#include "core/kernels/cpu_ops.h"
#include "core/model/kv_cache.h"
#include "core/model/model_registry.h"
#include "core/model/model_tensors.h"
#include "core/tensor/tensor_wrapper.h"
#include "worker/load_check.h"
#include "worker/stage.h"
#include "worker/stage_sampler.h"
#include "worker/stage_slots.h"
#include "worker/step_batcher.h"
#include "worker/token_mailbox.h"

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
  absl::Status BeginEpoch(const EpochStart& start) override;
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override;
  Tensor Rows(int64_t num_tokens) override { return model_->Residual(num_tokens); }
  Tensor TokenRows(int64_t num_samples) override { return token_rows_.Slice(0, num_samples); }
  absl::Status TakeTokens(uint32_t epoch, uint64_t plan, int64_t num_samples) override {
    return mailbox_->Put(epoch, plan, TokenRows(num_samples), limits_.vocab_size);
  }
  int64_t voids() const override { return voids_.load(std::memory_order_relaxed); }

 private:
  absl::StatusOr<StageInfo> LoadModel(const StageOptions& options,
                                      const ProgressCallback& progress);
  absl::Status MakeRoom(const StageOptions& options, const ModelConfig& config, int64_t num_blocks);
  void LookUpTokens(const StepPlan& plan);
  absl::Status LeaveTokens(const StepResult& result);

  LayerRange layers_;
  bool is_first_ = false;
  bool is_last_ = false;
  PlanLimits limits_;
  HostAllocator allocator_;
  std::optional<ThreadPool> pool_;
  std::optional<CpuOps> ops_;
  std::unique_ptr<Model> model_;
  std::optional<KvCache> cache_;
  std::optional<StepBatcher> batcher_;
  std::optional<StageSlots> slots_;
  std::optional<StageSampler> sampler_;  // last stage
  std::optional<TokenMailbox> mailbox_;  // what the first stage feeds; the last knows voids by it
  Tensor token_rows_;                    // [max_sequences, kTokenRowSize] i64
  std::vector<int32_t> fed_;             // by row of the plan at hand (StepBatcher::Build)
  std::atomic<int64_t> voids_ = 0;
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
  const uint64_t hash = ModelHash(config, *file.weights);
  PENSTOCK_RETURN_IF_ERROR(CheckStageOptions(options, config, hash));
  layers_ = StageLayers(options, config);
  is_first_ = layers_.first == 0;
  is_last_ = layers_.last == config.num_layers;
  const int64_t block_bytes = KvCache::BlockBytes(config, layers_.count());
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t num_blocks, StageBlocks(options, config, block_bytes));

  pool_.emplace(options.threads);
  ops_.emplace(*pool_);
  ModelCheck check;
  if (!options.check_file.empty()) {
    PENSTOCK_ASSIGN_OR_RETURN(check, ReadModelCheck(options.check_file));
  }
  const int64_t total = NumParameters(config, layers_);
  const WatchedSource weights(*file.weights, options.check_file.empty() ? nullptr : &check.tensors,
                              [&](std::string_view tensor, int64_t done) {
                                progress({done, total, std::string(tensor)});
                              });
  PENSTOCK_ASSIGN_OR_RETURN(std::unique_ptr<Model> model,
                            MakeModel(config, layers_, weights,
                                      {options.max_step_tokens, SampleRows(options.max_sequences),
                                       options.prefill_attention, options.padded_memory_bytes},
                                      *ops_, allocator_));
  PENSTOCK_RETURN_IF_ERROR(MakeRoom(options, config, num_blocks));
  model_ = std::move(model);

  StageInfo info;
  info.config = config;
  info.num_blocks = num_blocks;
  info.weight_bytes = model_->weight_bytes();
  info.layers = layers_;
  info.model_hash = hash;
  info.block_bytes = block_bytes;
  return info;
}

// What plans need beside the model.
absl::Status CpuStage::MakeRoom(const StageOptions& options, const ModelConfig& config,
                                int64_t num_blocks) {
  limits_ = {options.max_step_tokens, options.max_sequences, config.context_length, num_blocks,
             config.vocab_size};
  PENSTOCK_ASSIGN_OR_RETURN(cache_, KvCache::Make(config, layers_.count(), num_blocks, allocator_));
  PENSTOCK_ASSIGN_OR_RETURN(batcher_, StepBatcher::Make(limits_, allocator_));
  slots_.emplace(options.max_sequences, /*samples=*/is_last_);
  if (is_last_) {
    PENSTOCK_ASSIGN_OR_RETURN(sampler_, StageSampler::Make(limits_, allocator_));
  }
  if (is_first_ || is_last_) {
    mailbox_.emplace(options.max_sequences, options.plans_ahead);
    PENSTOCK_ASSIGN_OR_RETURN(
        token_rows_,
        Tensor::Make(DataType::kI64, {options.max_sequences, kTokenRowSize}, allocator_));
  }
  return absl::OkStatus();
}

absl::Status CpuStage::BeginEpoch(const EpochStart& start) {
  if (model_ == nullptr) return absl::FailedPreconditionError("no model has been loaded");
  if (start.num_blocks < 1 || start.num_blocks > cache_->num_blocks()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "plans of epoch ", start.epoch, " are to name ", start.num_blocks,
        " KV blocks, but this stage has ", cache_->num_blocks(), ": give all stages the least"));
  }
  batcher_->LimitBlocks(start.num_blocks);
  slots_->Reset();
  if (mailbox_) mailbox_->Reset();
  return absl::OkStatus();
}

absl::StatusOr<StepResult> CpuStage::Execute(const StepPlan& plan) {
  if (model_ == nullptr) return absl::FailedPreconditionError("no model has been loaded");
  const int64_t start = NowNs();
  LookUpTokens(plan);
  PENSTOCK_ASSIGN_OR_RETURN(const StepBatch batch, batcher_->Build(plan, fed_));
  PENSTOCK_RETURN_IF_ERROR(slots_->Admit(plan, fed_));
  voids_ += static_cast<int64_t>(batcher_->voids().size());
  model_->Forward(batch, *cache_);

  StepResult result;
  result.number = plan.number;
  result.epoch = plan.epoch;
  if (is_last_) {
    sampler_->Run({plan, *batcher_, batch, *model_, *ops_}, *slots_, &result);
    PENSTOCK_RETURN_IF_ERROR(LeaveTokens(result));
  }
  result.times.start_ns = start;
  result.times.compute_ns = NowNs() - start;
  return result;
}

// What rows feed whose tokens the front end did not know. Ends of the pipeline only: a stage
// between them computes with what it is given.
void CpuStage::LookUpTokens(const StepPlan& plan) {
  fed_.clear();
  if (!mailbox_) return;
  for (const PlanRow& row : plan.rows) {
    fed_.push_back(row.token_from == 0 ? kNoToken : mailbox_->Take(plan.epoch, row));
  }
}

// For later plans: here, and for the first stage.
absl::Status CpuStage::LeaveTokens(const StepResult& result) {
  const auto count = static_cast<int64_t>(result.samples.size());
  if (count == 0) return absl::OkStatus();
  const TensorWrapper<int64_t> rows(token_rows_);
  for (int64_t i = 0; i < count; ++i) {
    const SampledToken& sample = result.samples[static_cast<size_t>(i)];
    int64_t* row = rows.row(i);
    row[0] = sample.slot;
    row[1] = int64_t{sample.generation};
    row[2] = sample.position;
    row[3] = slots_->Ends(sample) ? kVoidToken : sample.token;
  }
  return TakeTokens(result.epoch, result.number, count);
}

}  // namespace

std::unique_ptr<StageExecutor> MakeCpuStage() { return std::make_unique<CpuStage>(); }

}  // namespace penstock
