// CpuBackend: the CPU's: everything is in the host's memory, and a kernel is done when its call
// returns. One thread at a time.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "core/kernels/cpu_ops.h"
#include "core/model/backend.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock {

class CpuBackend final : public Backend {
 public:
  // Threads that compute; 0: one a core. `mail` may be null.
  explicit CpuBackend(int threads, std::unique_ptr<DeviceMail> mail = nullptr)
      : pool_(threads), ops_(pool_), mail_(std::move(mail)) {}

  Ops& ops() override { return ops_; }
  DataType precision() const override { return DataType::kF32; }
  BaseAllocator& memory() override { return allocator_; }
  absl::StatusOr<Tensor> PlaceWeight(const WeightStream& packed) override {
    return packed.InMemory(allocator_, &pool_);
  }
  BaseAllocator& inputs() override { return allocator_; }
  BaseAllocator& outputs() override { return allocator_; }
  Tensor KernelView(const Tensor& shared) const override { return shared; }
  void SendInputs(std::span<const Tensor> /*used*/) override {}
  void FeedTokens(const Tensor& from, const Tensor& tokens, const Tensor& token_ids) override {
    const TensorWrapper<const int32_t> places(from);
    const TensorWrapper<const int32_t> values(tokens);
    const TensorWrapper<int32_t> ids(token_ids);
    for (int64_t i = 0; i < from.dim(0); ++i) {
      if (places[i] >= 0) ids[i] = std::max(values[places[i]], 0);
    }
  }
  void ReturnInputs(std::span<const Tensor> /*written*/) override {}
  std::vector<int64_t> WarmSizes(int64_t /*most*/) const override { return {}; }
  std::vector<int64_t> DecodeSizes(int64_t /*most*/) const override { return {}; }
  void RunDecodes(int64_t /*rows*/, const std::function<void()>& enqueue) override { enqueue(); }
  void FetchOutputs() override {}
  DeviceMail* mail() override { return mail_.get(); }
  void EndWarming() override {}
  PoolAllocatorStats MemoryStats() const override { return {}; }
  int64_t DeviceBytesFree() const override { return 0; }
  int64_t DeviceBytesInUse() const override { return 0; }

 private:
  HostAllocator allocator_;
  ThreadPool pool_;
  CpuOps ops_;
  const std::unique_ptr<DeviceMail> mail_;
};

}  // namespace penstock
