// The stage that computes a model, on whichever backend.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "core/base/log.h"
#include "core/io/check_file.h"
#include "core/io/model_file.h"
#include "core/io/model_hash.h"
#include "core/io/watched_source.h"
#include "core/model/kv_cache.h"
#include "core/model/model_registry.h"
#include "core/model/model_tensors.h"
#include "core/tensor/tensor_wrapper.h"
#include "worker/backends.h"
#include "worker/load_check.h"
#include "worker/stage.h"
#include "worker/stage_sampler.h"
#include "worker/stage_slots.h"
#include "worker/step_batcher.h"
#include "worker/steps_ahead.h"
#include "worker/token_mailbox.h"

namespace penstock {
namespace {

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

class ModelStage final : public StageExecutor {
 public:
  ~ModelStage() override;
  absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                 const ProgressCallback& progress) override;
  absl::Status BeginEpoch(const EpochStart& start) override;
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override;
  bool runs_ahead() const override { return is_first_ && is_last_; }
  bool CanBegin(const StepPlan& plan) const override { return begun_->CanBegin(plan, *slots_); }
  absl::Status Begin(const StepPlan& plan) override;
  bool IsDone() const override {
    return begun_->empty() || backend_->IsDone(begun_->front().place);
  }
  absl::StatusOr<StepResult> Finish() override;
  Tensor Rows(int64_t num_tokens) override { return rows_.Slice(0, num_tokens); }
  Tensor TokenRows(int64_t num_samples) override { return token_rows_.Slice(0, num_samples); }
  absl::Status TakeTokens(uint32_t epoch, uint64_t plan, int64_t num_samples) override {
    return mailbox_->Put(epoch, plan, TokenRows(num_samples), limits_.vocab_size);
  }
  void SetMail(const StageMail& mail) override { mail_ = mail; }
  void CancelMail() override {
    if (DeviceMail* mail = device_mail()) mail->Cancel();
  }
  bool waits_for_mail() const override {
    const DeviceMail* mail = device_mail();
    return mail != nullptr && mail->waits();
  }
  int64_t voids() const override { return voids_.load(std::memory_order_relaxed); }
  DeviceMemory device_memory() const override {
    const PoolAllocatorStats stats = backend_->MemoryStats();
    return {stats.bytes_in_use(), stats.bytes_free(),
            stats.big.raw_allocations + stats.small.raw_allocations};
  }

 private:
  absl::StatusOr<StageInfo> LoadModel(const StageOptions& options,
                                      const ProgressCallback& progress);
  absl::Status WaitForRoom(const StageOptions& options, int64_t weight_bytes,
                           int64_t kv_bytes) const;
  absl::Status MakeRoom(const StageOptions& options, const ModelConfig& config, int64_t num_blocks);
  absl::Status Warm();
  absl::Status WarmStep(int64_t tokens, int64_t each);
  absl::Status WarmAhead();
  void LookUpTokens(const StepPlan& plan);
  void Enqueue(const StepPlan& plan, StepsAhead::Step* step);
  void Sampled(const StepsAhead::Step& step, StepResult* result);
  void OrderMail(const StepPlan& plan);
  absl::Status TakeMail(StageTimes* times);
  DeviceMail* device_mail() const { return backend_ != nullptr ? backend_->mail() : nullptr; }
  void SendInputs(const StepPlan& plan);
  void ViewInputs(StepBatch* batch) const;
  absl::Status LeaveTokens(const StepResult& result);

  LayerRange layers_;
  bool is_first_ = false;
  bool is_last_ = false;
  PlanLimits limits_;
  HostAllocator allocator_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::optional<KvCache> cache_;
  std::optional<StepBatcher> batcher_;
  std::optional<StageSlots> slots_;
  std::optional<StageSampler> sampler_;  // last stage
  std::optional<TokenMailbox> mailbox_;  // what the first stage feeds; the last knows voids by it
  // One of several stages: [max_tokens, hidden], what it takes and hands on: as the host sees it,
  // or as kernels do.
  Tensor rows_;
  bool rows_stay_ = false;    // on the device: whoever fills and takes them is there
  std::vector<Tensor> used_;  // of inputs, by the plan at hand
  Tensor token_rows_;         // [max_sequences, kTokenRowSize] i64
  StageMail mail_;
  MailOrder order_;            // the last one; its memory is used again
  std::vector<int32_t> fed_;   // by row of the plan at hand (StepBatcher::Build)
  std::vector<int32_t> from_;  // the same
  std::optional<StepsAhead> begun_;
  int64_t last_done_ns_ = 0;
  std::atomic<int64_t> voids_ = 0;
  int64_t ready_bytes_ = 0;  // of the device in use once it was ready; 0: not known
};

// A stage that is ready takes no more of a device.
ModelStage::~ModelStage() {
  if (ready_bytes_ == 0) return;
  const int64_t bytes = backend_->DeviceBytesInUse();
  LogInfo(absl::StrCat("device memory in use: ", ready_bytes_, " bytes when ready, ", bytes,
                       " at the end (change ", bytes - ready_bytes_, ")"));
}

absl::StatusOr<StageInfo> ModelStage::Load(const StageOptions& options,
                                           const ProgressCallback& progress) {
  if (model_ != nullptr) {
    return absl::FailedPreconditionError("this stage has loaded a model already");
  }
  const int64_t start = NowNs();
  PENSTOCK_ASSIGN_OR_RETURN(StageInfo info, LoadModel(options, progress));
  info.load_ns = NowNs() - start;
  return info;
}

absl::StatusOr<StageInfo> ModelStage::LoadModel(const StageOptions& options,
                                                const ProgressCallback& progress) {
  PENSTOCK_ASSIGN_OR_RETURN(const ModelFile file, OpenModel(options.model));
  const ModelConfig& config = file.config;
  const uint64_t hash = ModelHash(config, *file.weights);
  PENSTOCK_RETURN_IF_ERROR(CheckStageOptions(options, config, hash));
  layers_ = StageLayers(options, config);
  is_first_ = layers_.first == 0;
  is_last_ = layers_.last == config.num_layers;
  const int64_t block_bytes = KvCache::BlockBytes(config, layers_.count(), options.precision);
  const bool is_told = options.num_blocks > 0 || options.kv_memory_bytes > 0;
  int64_t num_blocks = 0;
  if (is_told) {
    PENSTOCK_ASSIGN_OR_RETURN(num_blocks,
                              StageBlocks(options, config, block_bytes, options.kv_memory_bytes));
  }

  PENSTOCK_ASSIGN_OR_RETURN(backend_, MakeBackend(options, config));
  const int64_t total = NumParameters(config, layers_);
  PENSTOCK_RETURN_IF_ERROR(
      WaitForRoom(options, total * Info(options.precision).block_bytes, num_blocks * block_bytes));
  ModelCheck check;
  if (!options.check_file.empty()) {
    PENSTOCK_ASSIGN_OR_RETURN(check, ReadModelCheck(options.check_file));
  }
  const WatchedSource weights(*file.weights, options.check_file.empty() ? nullptr : &check.tensors,
                              [&](std::string_view tensor, int64_t done) {
                                progress({done, total, std::string(tensor)});
                              });
  ModelMemory memory(backend_->memory(), allocator_,
                     [&](const WeightStream& packed) { return backend_->PlaceWeight(packed); });
  if (options.num_stages > 1) {
    rows_stay_ = options.rows_stay();
    PENSTOCK_ASSIGN_OR_RETURN(
        rows_, Tensor::Make(DataType::kF32, {options.max_step_tokens, config.hidden_size},
                            rows_stay_ ? backend_->memory() : backend_->inputs()));
    memory.residual = rows_stay_ ? rows_ : backend_->KernelView(rows_);
  }
  PENSTOCK_ASSIGN_OR_RETURN(
      std::unique_ptr<Model> model,
      MakeModel(config, layers_, weights,
                {options.max_step_tokens, SampleRows(options.max_sequences),
                 options.prefill_attention, options.padded_memory_bytes, options.precision},
                backend_->ops(), memory));
  if (!is_told) {
    const int64_t left = backend_->DeviceBytesFree();
    PENSTOCK_ASSIGN_OR_RETURN(
        num_blocks,
        StageBlocks(options, config, block_bytes, left > 0 ? KvBytesOf(left) : kDefaultKvBytes));
  }
  PENSTOCK_RETURN_IF_ERROR(MakeRoom(options, config, num_blocks));
  model_ = std::move(model);
  PENSTOCK_RETURN_IF_ERROR(Warm());

  StageInfo info;
  info.config = config;
  info.num_blocks = num_blocks;
  info.weight_bytes = model_->weight_bytes();
  info.layers = layers_;
  info.model_hash = hash;
  info.block_bytes = block_bytes;
  info.gemm_table_hash = backend_->TuningHash();
  return info;
}

// A stage that takes a dead one's place may be here before the memory of that is free.
absl::Status ModelStage::WaitForRoom(const StageOptions& options, int64_t weight_bytes,
                                     int64_t kv_bytes) const {
  constexpr int64_t kPatienceNs = 3'000'000'000;
  const int64_t until = NowNs() + (options.num_blocks > 0 ? kPatienceNs : 0);
  while (true) {
    absl::Status room = CheckRoom(options, weight_bytes, kv_bytes, backend_->DeviceBytesFree());
    if (room.ok() || NowNs() >= until) return room;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

// What plans need beside the model.
absl::Status ModelStage::MakeRoom(const StageOptions& options, const ModelConfig& config,
                                  int64_t num_blocks) {
  limits_ = {options.max_step_tokens, options.max_sequences, config.context_length, num_blocks,
             config.vocab_size};
  PENSTOCK_ASSIGN_OR_RETURN(cache_, KvCache::Make(config, layers_.count(), num_blocks,
                                                  backend_->memory(), options.precision));
  PENSTOCK_ASSIGN_OR_RETURN(batcher_, StepBatcher::Make(limits_, backend_->inputs()));
  batcher_->PadDecodes(backend_->DecodeSizes(std::min(limits_.max_sequences, limits_.max_tokens)));
  slots_.emplace(options.max_sequences, /*samples=*/is_last_);
  begun_.emplace(options.max_sequences);
  if (is_last_) {
    PENSTOCK_ASSIGN_OR_RETURN(sampler_, StageSampler::Make(limits_, backend_->outputs()));
  }
  if (is_first_ || is_last_) {
    mailbox_.emplace(options.max_sequences, options.plans_ahead);
    PENSTOCK_ASSIGN_OR_RETURN(
        token_rows_,
        Tensor::Make(DataType::kI64, {options.max_sequences, kTokenRowSize}, allocator_));
  }
  return absl::OkStatus();
}

// Steps of every size that the backend wants to have seen: as one prompt or a few, and as decodes.
// What they leave behind in KV blocks is overwritten before it is read.
absl::Status ModelStage::Warm() {
  const int64_t longest = std::min(limits_.context_length, cache_->num_blocks() * kBlockSize);
  for (const int64_t size : backend_->WarmSizes(limits_.max_tokens)) {
    PENSTOCK_RETURN_IF_ERROR(WarmStep(size, longest));
    PENSTOCK_RETURN_IF_ERROR(WarmStep(size, 1));
  }
  for (const int64_t size : batcher_->decode_sizes()) {
    PENSTOCK_RETURN_IF_ERROR(WarmStep(size, 1));
    PENSTOCK_RETURN_IF_ERROR(WarmStep(size, 1));
  }
  if (runs_ahead() && !batcher_->decode_sizes().empty()) PENSTOCK_RETURN_IF_ERROR(WarmAhead());
  slots_->Reset();
  if (mailbox_) mailbox_->Reset();
  voids_ = 0;
  backend_->EndWarming();
  ready_bytes_ = backend_->DeviceBytesInUse();
  return absl::OkStatus();
}

// So many tokens, in rows of `each`; nothing where those are more rows than a step may have.
absl::Status ModelStage::WarmStep(int64_t tokens, int64_t each) {
  if ((tokens + each - 1) / each > limits_.max_sequences) return absl::OkStatus();
  StepPlan plan;
  plan.number = 1;
  for (int64_t left = tokens; left > 0; left -= each) {
    Admission& admission = plan.admissions.emplace_back();
    admission.slot = static_cast<int32_t>(plan.rows.size());
    admission.generation = 1;
    admission.prompt_tokens = 1;
    PlanRow& row = plan.rows.emplace_back();
    row.slot = admission.slot;
    row.generation = admission.generation;
    row.tokens.assign(static_cast<size_t>(std::min(left, each)), 0);
    for (int32_t b = 0; b < BlocksFor(std::min(left, each)); ++b) row.blocks.push_back(b);
    row.sample = true;
  }
  return Execute(plan).status();
}

// A token that goes from one step to the next: what that takes is loaded too.
absl::Status ModelStage::WarmAhead() {
  if (limits_.context_length < 2) return absl::OkStatus();
  StepPlan first;
  first.number = 1;
  Admission& admission = first.admissions.emplace_back();
  admission.generation = 1;
  admission.prompt_tokens = 1;
  PlanRow& row = first.rows.emplace_back();
  row.generation = admission.generation;
  row.tokens = {0};
  row.blocks = {0};
  row.sample = true;
  StepPlan second;
  second.number = 2;
  PlanRow& fed = second.rows.emplace_back(row);
  fed.position = 1;
  fed.tokens = {kNoToken};
  fed.token_from = first.number;
  PENSTOCK_RETURN_IF_ERROR(Begin(first));
  PENSTOCK_RETURN_IF_ERROR(Begin(second));
  PENSTOCK_RETURN_IF_ERROR(Finish().status());
  return Finish().status();
}

absl::Status ModelStage::BeginEpoch(const EpochStart& start) {
  if (model_ == nullptr) return absl::FailedPreconditionError("no model has been loaded");
  if (start.num_blocks < 1 || start.num_blocks > cache_->num_blocks()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "plans of epoch ", start.epoch, " are to name ", start.num_blocks,
        " KV blocks, but this stage has ", cache_->num_blocks(), ": give all stages the least"));
  }
  PENSTOCK_CHECK(begun_->empty());
  batcher_->LimitBlocks(start.num_blocks);
  slots_->Reset();
  if (mailbox_) mailbox_->Reset();
  if (DeviceMail* mail = device_mail()) mail->Reset();
  return absl::OkStatus();
}

absl::StatusOr<StepResult> ModelStage::Execute(const StepPlan& plan) {
  PENSTOCK_CHECK(!begun_ || begun_->empty());
  PENSTOCK_RETURN_IF_ERROR(Begin(plan));
  return Finish();
}

absl::Status ModelStage::Begin(const StepPlan& plan) {
  if (model_ == nullptr) return absl::FailedPreconditionError("no model has been loaded");
  StepsAhead::Step step;
  step.plan = &plan;
  step.start_ns = NowNs();
  step.place = begun_->NextPlace();
  if (!begun_->empty()) backend_->AwaitInputs();
  LookUpTokens(plan);
  PENSTOCK_ASSIGN_OR_RETURN(step.batch, batcher_->Build(plan, fed_, from_));
  PENSTOCK_RETURN_IF_ERROR(slots_->Admit(plan, fed_));
  voids_ += static_cast<int64_t>(batcher_->voids().size());
  for (size_t i = 0; i < from_.size(); ++i) {
    if (from_[i] >= 0) step.fed.push_back(&plan.rows[i]);
  }
  SendInputs(plan);
  ViewInputs(&step.batch);
  if (!step.fed.empty()) {
    backend_->FeedTokens(backend_->KernelView(batcher_->token_from()),
                         sampler_->Tokens(*backend_, begun_->front().place), step.batch.token_ids);
  }
  Enqueue(plan, &step);
  begun_->Push(std::move(step));
  return absl::OkStatus();
}

// From inputs to outputs.
void ModelStage::Enqueue(const StepPlan& plan, StepsAhead::Step* step) {
  const StepBatch& batch = step->batch;
  DeviceMail* const mail = device_mail();
  if (mail != nullptr) OrderMail(plan);
  step->has_logits = is_last_ && batcher_->is_padded();
  step->has_targets = batcher_->num_targets() > 0;
  const auto enqueue = [&] {
    const Tensor rows = rows_.empty() ? rows_ : Rows(batch.token_ids.dim(0));
    if (mail != nullptr && is_first_) mail->ReceiveTokens(batch.token_ids);
    if (mail != nullptr && !is_first_) mail->ReceiveRows(rows);
    model_->Forward(batch, *cache_);
    if (mail != nullptr && !is_last_) mail->SendRows(rows);
    if (step->has_logits) static_cast<void>(model_->Logits(batch.sample_tokens));
  };
  if (batcher_->is_padded()) {
    backend_->RunDecodes(batch.num_rows(), enqueue);
  } else {
    enqueue();
  }
  if (is_last_) {
    sampler_->Begin({plan, *batcher_, batch, step->has_logits, *model_, *backend_}, *slots_,
                    step->place, &step->asked);
    for (const PlanRow* row : batcher_->voids()) {
      if (!row->sample) continue;
      SampledToken& sample = step->voids.emplace_back();
      sample.slot = row->slot;
      sample.generation = row->generation;
      sample.position = row->position + 1;
      sample.token = kVoidToken;
    }
  } else if (!rows_stay_) {
    const Tensor rows = Rows(plan.num_tokens());
    backend_->ReturnInputs({&rows, 1});
  }
  backend_->EndStep(step->place);
}

absl::StatusOr<StepResult> ModelStage::Finish() {
  const StepsAhead::Step step = begun_->Pop();
  StepResult result;
  result.number = step.plan->number;
  result.epoch = step.plan->epoch;
  backend_->AwaitStep(step.place);
  if (is_last_) Sampled(step, &result);
  const int64_t now = NowNs();
  result.times.start_ns = std::max(step.start_ns, std::exchange(last_done_ns_, now));
  result.times.compute_ns = now - result.times.start_ns;
  if (device_mail() != nullptr) PENSTOCK_RETURN_IF_ERROR(TakeMail(&result.times));
  if (is_last_) PENSTOCK_RETURN_IF_ERROR(LeaveTokens(result));
  return result;
}

// What the host makes of the step's outputs.
void ModelStage::Sampled(const StepsAhead::Step& step, StepResult* result) {
  sampler_->Finish(step.asked, step.place, result);
  for (const PlanRow* row : step.fed) {
    if (mailbox_->Take(step.plan->epoch, *row) != kVoidToken) continue;
    ++voids_;
    const auto sample =
        std::find_if(result->samples.begin(), result->samples.end(),
                     [row](const SampledToken& each) { return each.slot == row->slot; });
    if (sample == result->samples.end()) continue;
    sample->token = kVoidToken;
    sample->logprob = 0;
    sample->top.clear();
  }
  for (const SampledToken& sample : result->samples) {
    StageSlots::Slot& slot = slots_->At(sample.slot);
    if (sample.token >= 0 && slot.sampling.needs_history()) slot.history.Append(sample.token);
  }
  result->samples.insert(result->samples.end(), step.voids.begin(), step.voids.end());
  if (step.has_targets) {
    sampler_->TellPrompts({*step.plan, *batcher_, step.batch, step.has_logits, *model_, *backend_},
                          *slots_, result);
  }
}

// What the step's kernels take from the mail and give to it.
void ModelStage::OrderMail(const StepPlan& plan) {
  order_.epoch = plan.epoch;
  order_.plan = plan.number;
  order_.limit_ns = plan.limit_ns;
  const int64_t bytes = Rows(plan.num_tokens()).bytes();
  order_.rows_in = is_first_ ? nullptr : mail_.in;
  order_.rows_in_bytes = bytes;
  order_.mailbox_bytes = mail_.in_bytes;
  order_.rows_out = is_last_ ? nullptr : mail_.out;
  order_.rows_out_offset = mail_.out_offset;
  order_.rows_out_bytes = bytes;
  order_.tokens_in = is_first_ ? mail_.in : nullptr;
  order_.tokens_out = is_last_ ? mail_.out : nullptr;
  order_.tokens_from = 0;
  order_.fed.clear();
  order_.sent.clear();
  if (is_first_) {
    for (size_t i = 0; i < plan.rows.size(); ++i) {
      const PlanRow& row = plan.rows[i];
      if (row.token_from == 0) continue;
      order_.tokens_from = std::max(order_.tokens_from, row.token_from);
      order_.fed.push_back({static_cast<int32_t>(MailLayout::TokenPlace(row.token_from, row.slot,
                                                                        limits_.max_sequences)),
                            static_cast<int32_t>(batcher_->first_token(i)),
                            TokenTag(plan.epoch, row.generation, row.position)});
    }
  }
  if (is_last_) {
    for (const PlanRow* row : batcher_->sampled()) {
      const int64_t position = row->position + static_cast<int64_t>(row->tokens.size());
      order_.sent.push_back({static_cast<int32_t>(MailLayout::TokenPlace(plan.number, row->slot,
                                                                         limits_.max_sequences)),
                             TokenTag(plan.epoch, row->generation, position)});
    }
  }
  backend_->mail()->Order(order_);
}

// The device's own times, where it had to wait: when it computed, and for how long.
absl::Status ModelStage::TakeMail(StageTimes* times) {
  PENSTOCK_ASSIGN_OR_RETURN(const MailTimes mail, backend_->mail()->Take());
  if (mail.computed_ns == 0) return absl::OkStatus();
  times->start_ns = NowNs() - mail.since_ns - mail.computed_ns;
  times->compute_ns = mail.computed_ns;
  times->wait_input_ns = mail.waited_ns;
  return absl::OkStatus();
}

// What rows feed whose tokens the front end did not know. Ends of the pipeline only: a stage
// between them computes with what it is given.
void ModelStage::LookUpTokens(const StepPlan& plan) {
  fed_.clear();
  from_.clear();
  if (!mailbox_) return;
  // What feeds the first stage's rows is in the mail, and whether they are void the last one knows.
  const bool is_known = device_mail() == nullptr || is_last_;
  bool is_ahead = false;
  for (const PlanRow& row : plan.rows) {
    const int32_t place = row.token_from == 0 ? -1 : begun_->PlaceOfSample(plan, row);
    from_.push_back(place);
    is_ahead = is_ahead || place >= 0;
    if (row.token_from == 0) {
      fed_.push_back(kNoToken);
    } else {
      fed_.push_back(is_known && place < 0 ? mailbox_->Take(plan.epoch, row) : 0);
    }
  }
  if (!is_ahead) from_.clear();
}

// The batch, and the rows of the stage before, if the host has them.
void ModelStage::SendInputs(const StepPlan& plan) {
  const std::span<const Tensor> used = batcher_->used();
  used_.assign(used.begin(), used.end());
  if (!is_first_ && !rows_stay_) used_.push_back(Rows(plan.num_tokens()));
  backend_->SendInputs(used_);
  used_.clear();
}

// The batch as kernels see it.
void ModelStage::ViewInputs(StepBatch* batch) const {
  for (Tensor* tensor : {&batch->token_ids, &batch->positions, &batch->kv_slots, &batch->row_starts,
                         &batch->context_lens, &batch->block_tables, &batch->sample_tokens}) {
    if (!tensor->empty()) *tensor = backend_->KernelView(*tensor);
  }
}

// For later plans: here, and for the first stage.
absl::Status ModelStage::LeaveTokens(const StepResult& result) {
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

std::unique_ptr<StageExecutor> MakeModelStage() { return std::make_unique<ModelStage>(); }

}  // namespace penstock
