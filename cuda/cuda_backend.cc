#include "cuda/cuda_backend.h"

#include <algorithm>
#include <array>
#include <optional>
#include <thread>
#include <utility>

#include "core/base/check.h"
#include "core/base/cpu_affinity.h"
#include "core/base/log.h"
#include "core/base/quoted.h"
#include "core/io/gemm_table.h"
#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "cuda/cuda_ops.h"
#include "cuda/device_mail.h"
#include "cuda/feed_tokens.h"
#include "cuda/gemm_tuner.h"
#include "cuda/kernels/launchers.h"
#include "cuda/lt_linear.h"
#include "cuda/mirrored_memory.h"
#include "cuda/pinned_memory.h"
#include "cuda/step_graphs.h"
#include "cuda/weight_upload.h"

namespace penstock {
namespace {

class CudaBackend final : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<Backend>> Make(const CudaBackendOptions& options) {
    PoolOptions pools;
    pools.exact = options.guard_memory;
    PENSTOCK_ASSIGN_OR_RETURN(std::unique_ptr<PoolAllocator> memory,
                              MakeCudaAllocator(options.ordinal, pools));
    std::unique_ptr<CudaBackend> backend(new CudaBackend(options, std::move(memory)));
    if (const int cores = backend->StayNear(); cores > 0) {
      LogInfo(absl::StrCat("cuda:", options.ordinal, ": its threads stay on the ", cores,
                           " cores near it"));
    }
    backend->BeginUpload();
    PENSTOCK_ASSIGN_OR_RETURN(
        backend->ops_,
        cuda::CudaOps::Make(options.heads, options.vocab_size, options.max_sequences,
                            options.invariant ? cuda::SumOrder::kFixed : cuda::SumOrder::kFastest,
                            *backend->memory_));
    if (options.mail) {
      PENSTOCK_ASSIGN_OR_RETURN(
          backend->mail_, cuda::MakeDeviceMail(backend->ops_->stream().get(), options.max_sequences,
                                               options.vocab_size, *backend->memory_));
    }
    PENSTOCK_RETURN_IF_ERROR(backend->UseGemmTable());
    return backend;
  }
  ~CudaBackend() override {
    CUDA_CHECK(cudaSetDevice(options_.ordinal));
    if (ops_ != nullptr) ops_->stream().Synchronize();
  }

  Ops& ops() override { return *ops_; }
  DataType precision() const override { return options_.precision; }
  BaseAllocator& memory() override { return *memory_; }

  // The buffers of the upload are there until the first step.
  absl::StatusOr<Tensor> PlaceWeight(const WeightStream& packed) override {
    if (!upload_) BeginUpload();
    return upload_->Upload(packed);
  }

  BaseAllocator& inputs() override { return inputs_; }
  BaseAllocator& outputs() override { return outputs_; }
  Tensor KernelView(const Tensor& shared) const override {
    return inputs_.Has(shared) ? inputs_.OnDevice(shared) : cuda::PinnedMemory::OnDevice(shared);
  }
  void SendInputs(std::span<const Tensor> used) override {
    CUDA_CHECK(cudaSetDevice(options_.ordinal));
    if (thread_ != std::this_thread::get_id()) StayNear();  // a stage's is not the loading one
    upload_.reset();
    inputs_.CopyToDevice(ops_->stream().get(), used);
    ops_->stream().Record(inputs_taken_);
  }
  void AwaitInputs() override { inputs_taken_.Synchronize(); }
  void FeedTokens(const Tensor& from, const Tensor& tokens, const Tensor& token_ids) override {
    cuda::LaunchFeedTokens(ops_->stream().get(), from, tokens, token_ids);
  }
  void ReturnInputs(std::span<const Tensor> written) override {
    inputs_.CopyToHost(ops_->stream().get(), written);
  }
  // Those whose products have an algorithm of their own.
  std::vector<int64_t> WarmSizes(int64_t most) const override {
    std::vector<int64_t> sizes;
    for (int64_t size = 1; size <= most; size = cuda::LtLinear::TokenBucket(size + 1)) {
      sizes.push_back(size);
    }
    if (sizes.back() < most) sizes.push_back(most);
    return sizes;
  }
  // The same numbers, so that a step is padded to what its products' algorithms are made for.
  // Padding costs next to nothing: up to here weights are what a product reads, and attention has
  // nothing to do for it. Beyond, a step is so long that its launches are hidden behind it.
  std::vector<int64_t> DecodeSizes(int64_t most) const override {
    constexpr int64_t kMaxRows = 256;
    return WarmSizes(std::min(most, kMaxRows));
  }
  void RunDecodes(int64_t rows, const std::function<void()>& enqueue) override {
    if (!options_.graphs) return enqueue();
    graphs_.Run(ops_->stream().get(), rows, enqueue);
  }
  void FetchOutputs() override { ops_->stream().Synchronize(); }
  void EndStep(int place) override { ops_->stream().Record(ends_[static_cast<size_t>(place)]); }
  bool IsDone(int place) const override { return ends_[static_cast<size_t>(place)].IsDone(); }
  void AwaitStep(int place) override { ends_[static_cast<size_t>(place)].Synchronize(); }

  DeviceMail* mail() override { return mail_.get(); }

  void EndWarming() override {
    graphs_.Freeze();
    if (graphs_.count() == 0) return;
    LogInfo(absl::StrCat("decodes run as ", graphs_.count(), " graphs with ",
                         graphs_.programmatic_edges(), " programmatic edges, made in ",
                         graphs_.make_ns() / 1000000, " ms, of ", graphs_.bytes() >> 10,
                         " KiB of the GPU"));
  }
  PoolAllocatorStats MemoryStats() const override { return memory_->stats(); }
  int64_t DeviceBytesFree() const override { return Memory().first; }
  int64_t DeviceBytesInUse() const override {
    const auto [free, total] = Memory();
    return total - free;
  }
  uint64_t TuningHash() const override { return table_hash_; }

 private:
  CudaBackend(const CudaBackendOptions& options, std::unique_ptr<PoolAllocator> memory)
      : options_(options), memory_(std::move(memory)), inputs_(*memory_) {}

  absl::Status UseGemmTable();

  // As early as can be: its ring is made while other things are.
  void BeginUpload() {
    cuda::UploadRing ring;
    ring.threads = options_.threads;
    upload_.emplace(options_.precision, *memory_, ring);
  }

  // The calling thread on the cores near the GPU: how many, 0 if it is left where it may run.
  int StayNear() {
    thread_ = std::this_thread::get_id();
    std::array<char, 32> address = {};
    CUDA_CHECK(cudaDeviceGetPCIBusId(address.data(), address.size(), options_.ordinal));
    const absl::StatusOr<int> cores = KeepThreadNear(address.data());
    if (!cores.ok()) LogWarning(Message(cores.status()));  // slower, and right
    return cores.value_or(0);
  }

  // Free, and all, by whomever it is used.
  std::pair<int64_t, int64_t> Memory() const {
    size_t free = 0;
    size_t total = 0;
    CUDA_CHECK(cudaSetDevice(options_.ordinal));
    CUDA_CHECK(cudaMemGetInfo(&free, &total));
    return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
  }

  const CudaBackendOptions options_;
  const std::unique_ptr<PoolAllocator> memory_;
  std::thread::id thread_;  // whose cores are chosen
  cuda::MirroredMemory inputs_;
  cuda::PinnedMemory outputs_;
  CudaEvent inputs_taken_;
  std::array<CudaEvent, 2> ends_;             // of steps, by place
  std::optional<cuda::WeightUpload> upload_;  // while loading
  std::unique_ptr<cuda::CudaOps> ops_;
  std::unique_ptr<DeviceMail> mail_;
  cuda::StepGraphs graphs_;
  uint64_t table_hash_ = 0;
};

absl::Status CudaBackend::UseGemmTable() {
  if (options_.gemm_table == "none") return absl::OkStatus();
  const GemmTable here = cuda::GemmTableOfGpu(options_.ordinal);
  const bool is_default = options_.gemm_table.empty();
  const std::string path = is_default ? DefaultGemmTablePath(here.gpu) : options_.gemm_table;
  if (path.empty()) return absl::OkStatus();
  absl::StatusOr<GemmTable> table = ReadGemmTable(path);
  if (is_default && absl::IsNotFound(table.status())) return absl::OkStatus();
  if (!table.ok()) {
    return absl::Status(table.status().code(),
                        absl::StrCat(Message(table.status()),
                                     ": measure again with penstock tune --gemm-table FILE, or use "
                                     "--gemm-table none"));
  }
  if (table->gpu != here.gpu || table->library_version != here.library_version) {
    LogWarning(absl::StrCat(path, " is not used: it was measured on ", Quoted(table->gpu),
                            " with cuBLASLt ", table->library_version, ", and this is ", here.gpu,
                            " with ", here.library_version, "; measure again with penstock tune"));
    return absl::OkStatus();
  }
  table_hash_ = GemmTableHash(*table);
  LogInfo(absl::StrCat("matrix products by ", path, " (", absl::Hex(table_hash_, absl::kZeroPad16),
                       "), of ", table->products.size(), " products"));
  ops_->UseGemmTable(std::move(*table));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions& options) {
  const DataType type = options.precision;
  if (type != DataType::kF32 && type != DataType::kF16 && type != DataType::kBF16) {
    return absl::InvalidArgumentError(
        absl::StrCat("a GPU does not compute in ", Abs(Name(type)), ": use f32, f16 or bf16"));
  }
  if (options.max_sequences > cuda::kMaxDecodeRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("a GPU decodes ", cuda::kMaxDecodeRows, " sequences at once at most, not ",
                     options.max_sequences, ": lower --max-sequences"));
  }
  if (options.invariant && !cuda::HasFixedOrder(type, options.heads)) {
    return absl::UnimplementedError(absl::StrCat(
        "--invariant has kernels for bf16 and f16 and for heads of 64, 96 or 128, not for ",
        Abs(Name(type)), " and heads of ", options.heads.head_dim,
        ": use --precision bf16, or leave --invariant out"));
  }
  return CudaBackend::Make(options);
}

}  // namespace penstock
