// Doors for rows by NCCL on any device. On a GPU too the tensors of tests are the host's: they go
// to the GPU before a send and come back after a receive.
#pragma once

#ifdef PENSTOCK_CUDA
#include <cuda_runtime_api.h>
#endif

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#ifdef PENSTOCK_CUDA
#include "cuda/cuda_check.h"
#endif
#include "tests/support/nccl_endpoint.h"

namespace penstock::testing {

#ifdef PENSTOCK_CUDA

// Memory of a GPU for a tensor of the host.
class GpuTwin {
 public:
  GpuTwin(int gpu, const Tensor& host) : gpu_(gpu), host_(host) {
    CUDA_CHECK(cudaSetDevice(gpu_));
    CUDA_CHECK(cudaMalloc(&data_, static_cast<size_t>(host.bytes())));
  }
  ~GpuTwin() {
    CUDA_CHECK(cudaSetDevice(gpu_));
    CUDA_CHECK(cudaFree(data_));
  }
  GpuTwin(const GpuTwin&) = delete;
  GpuTwin& operator=(const GpuTwin&) = delete;

  Tensor tensor() const {
    return Tensor::Borrow(data_, host_.type(), host_.shape(), Device::kCuda);
  }
  void ToGpu() { Copy(data_, host_.raw()); }
  void ToHost() { Copy(host_.raw(), data_); }

 private:
  void Copy(void* to, const void* from) const {
    CUDA_CHECK(cudaSetDevice(gpu_));
    CUDA_CHECK(cudaMemcpy(to, from, static_cast<size_t>(host_.bytes()), cudaMemcpyDefault));
    CUDA_CHECK(cudaStreamSynchronize(cudaStreamLegacy));
  }

  const int gpu_;
  Tensor host_;
  void* data_ = nullptr;
};

// Twins go with the lane: freeing memory waits for the whole GPU.
class TwinSendLane final : public SendLane {
 public:
  TwinSendLane(std::unique_ptr<SendLane> lane, int gpu) : gpu_(gpu), lane_(std::move(lane)) {}
  void Send(Stream& stream, const Tensor& tensor, uint64_t plan, absl::Duration limit) override {
    auto twin = std::make_shared<GpuTwin>(gpu_, tensor);
    twins_.push_back(twin);
    static_cast<CpuStream&>(stream).Enqueue([twin] { twin->ToGpu(); });
    lane_->Send(stream, twin->tensor(), plan, limit);
  }
  absl::Status SendNow(const Tensor& tensor, uint64_t plan, absl::Duration limit) override {
    return lane_->SendNow(tensor, plan, limit);
  }
  absl::Status status() const override { return lane_->status(); }
  void Cancel() override { lane_->Cancel(); }

 private:
  const int gpu_;
  std::vector<std::shared_ptr<GpuTwin>> twins_;
  std::unique_ptr<SendLane> lane_;
};

class TwinReceiveLane final : public ReceiveLane {
 public:
  TwinReceiveLane(std::unique_ptr<ReceiveLane> lane, int gpu) : gpu_(gpu), lane_(std::move(lane)) {}
  void Receive(Stream& stream, const Tensor& tensor, uint64_t plan, absl::Duration limit) override {
    auto twin = std::make_shared<GpuTwin>(gpu_, tensor);
    twins_.push_back(twin);
    auto& cpu_stream = static_cast<CpuStream&>(stream);
    lane_->Receive(stream, twin->tensor(), plan, limit);
    cpu_stream.Enqueue([twin, &cpu_stream] {
      if (cpu_stream.status().ok()) twin->ToHost();
    });
  }
  absl::Status ReceiveNow(const Tensor& tensor, uint64_t plan, absl::Duration limit) override {
    return lane_->ReceiveNow(tensor, plan, limit);
  }
  absl::Status status() const override { return lane_->status(); }
  int64_t waited_ns() const override { return lane_->waited_ns(); }
  void Cancel() override { lane_->Cancel(); }

 private:
  const int gpu_;
  std::vector<std::shared_ptr<GpuTwin>> twins_;
  std::unique_ptr<ReceiveLane> lane_;
};

class NcclGpuEndpoint final : public Endpoint, private Transport {
 public:
  NcclGpuEndpoint(std::unique_ptr<Endpoint> others, int gpu, const TransportOptions& options)
      : gpu_(gpu),
        inner_(std::make_unique<NcclEndpoint>(std::move(others), absl::StrCat("cuda:", gpu),
                                              options)) {}
  Transport& transport() override { return *this; }

 private:
  std::string address() const override { return inner_->transport().address(); }
  std::unique_ptr<ReceiveLane> Open(LaneKind kind, uint32_t epoch) override {
    auto lane = inner_->transport().Open(kind, epoch);
    if (kind != LaneKind::kRows) return lane;
    return std::make_unique<TwinReceiveLane>(std::move(lane), gpu_);
  }
  absl::StatusOr<std::unique_ptr<SendLane>> Connect(const std::string& address, LaneKind kind,
                                                    uint32_t epoch, absl::Duration limit) override {
    PENSTOCK_ASSIGN_OR_RETURN(auto lane, inner_->transport().Connect(address, kind, epoch, limit));
    if (kind != LaneKind::kRows) return lane;
    return std::make_unique<TwinSendLane>(std::move(lane), gpu_);
  }

  const int gpu_;
  const std::unique_ptr<NcclEndpoint> inner_;
};

// A world of two GPUs, and an endpoint on each at most.
class TwoGpus {
 public:
  explicit TwoGpus(MakeEndpoint make_others) : make_others_(std::move(make_others)) {}
  std::unique_ptr<Endpoint> Make(const TransportOptions& options) {
    const int gpu = taken_[0] ? 1 : 0;
    return std::make_unique<Place>(*this, gpu, options);
  }

 private:
  class Place final : public Endpoint {
   public:
    Place(TwoGpus& world, int gpu, const TransportOptions& options)
        : taken_(world.taken_[static_cast<size_t>(gpu)]),
          endpoint_(world.make_others_(options), gpu, options) {
      PENSTOCK_CHECK(!taken_);
      taken_ = true;
    }
    ~Place() override { taken_ = false; }
    Transport& transport() override { return endpoint_.transport(); }

   private:
    bool& taken_;
    NcclGpuEndpoint endpoint_;
  };

  const MakeEndpoint make_others_;
  std::array<bool, 2> taken_ = {};
};

inline bool TwoGpusAndNccl() {
  unsetenv("PENSTOCK_NCCL_LIBRARY");  // the library itself
  int count = 0;
  const bool can_count = cudaGetDeviceCount(&count) == cudaSuccess;
  static_cast<void>(cudaGetLastError());
  const auto library = NcclLibrary::Open();
  if (can_count && count >= 2 && library.ok()) return true;
  static const bool told = [&] {
    std::printf("skipped: rows by NCCL itself take two GPUs (here: %d) and NCCL (here: %s)\n",
                count, library.ok() ? (*library)->Version().c_str() : "none");
    return true;
  }();
  return !told;
}

// Lanes may outlive endpoints, but not their world.
inline TransportKind NcclGpusKind() {
  TransportKind kind{"Gpus", [] {
                       return [world = std::make_shared<TwoGpus>(LocalKind().make_world())](
                                  const TransportOptions& options) { return world->Make(options); };
                     }};
  kind.available = &TwoGpusAndNccl;
  return kind;
}
#endif

// On "cpu", with a stand-in for the library, or on "cuda:N".
inline std::unique_ptr<Endpoint> MakeNcclEndpoint(std::unique_ptr<Endpoint> others,
                                                  const std::string& device,
                                                  const TransportOptions& options) {
#ifdef PENSTOCK_CUDA
  const auto ordinal = DeviceOrdinal(device);
  PENSTOCK_CHECK(ordinal.ok());
  if (*ordinal >= 0) return std::make_unique<NcclGpuEndpoint>(std::move(others), *ordinal, options);
#endif
  return std::make_unique<NcclEndpoint>(std::move(others), device, options);
}

}  // namespace penstock::testing
