// The hop of rows from GPU to GPU by peer memory and by NCCL (between two GPUs, where it is there),
// beside the same by way of the host over gRPC: from the task that sends, on one stage's stream, to
// the end of the task that receives, on the other's. Both stages are of this process. Bytes are
// checked before anything is timed.
//   cuda_peer_bench [FROM TO]      ordinals of GPUs, 0 0 if not said
// For the way by the host the copies to and from pinned memory are part of the hop, as they are
// part of a stage's step.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>

#include "core/base/check.h"
#include "cuda/cuda_check.h"
#include "cuda/stream.h"
#include "tests/support/grpc_endpoint.h"
#include "tests/support/nccl_endpoint.h"
#include "tests/support/peer_endpoint.h"

namespace penstock::testing {
namespace {

using Clock = std::chrono::steady_clock;

// Memory of one GPU, and pinned memory beside it.
struct Place {
  Place(int gpu, int64_t bytes) : ordinal(gpu) {
    CUDA_CHECK(cudaSetDevice(gpu));
    CUDA_CHECK(cudaMalloc(&device, static_cast<size_t>(bytes)));
    CUDA_CHECK(cudaMallocHost(&pinned, static_cast<size_t>(bytes)));
    stream = std::make_unique<CudaStream>();
  }
  ~Place() {
    CUDA_CHECK(cudaSetDevice(ordinal));
    stream.reset();
    CUDA_CHECK(cudaFree(device));
    CUDA_CHECK(cudaFreeHost(pinned));
  }
  void Copy(void* to, const void* from, int64_t bytes) const {
    CUDA_CHECK(cudaSetDevice(ordinal));
    CUDA_CHECK(
        cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream->get()));
    stream->Synchronize();
  }

  int ordinal;
  void* device = nullptr;
  void* pinned = nullptr;
  std::unique_ptr<CudaStream> stream;
};

void Hop(const char* name, Endpoint& a, Endpoint& b, const Place& from, const Place& to,
         bool by_host, int64_t bytes) {
  constexpr int kWarm = 50;
  constexpr int kTimed = 1000;
  Sender sender;
  Receiver receiver;
  receiver.lane = b.transport().Open(LaneKind::kRows, 1);
  auto connected = a.transport().Connect(b.transport().address(), LaneKind::kRows, 1, kPatience);
  PENSTOCK_CHECK(connected.ok());
  sender.lane = *std::move(connected);
  const Shape shape{bytes / 4};
  const auto tensor = [&](const Place& place) {
    return by_host ? Tensor::Borrow(place.pinned, DataType::kF32, shape)
                   : Tensor::Borrow(place.device, DataType::kF32, shape, Device::kCuda);
  };
  const Tensor rows = tensor(from);
  const Tensor got = tensor(to);
  std::vector<double> hops;
  for (int i = 1; i <= kWarm + kTimed; ++i) {
    const auto plan = static_cast<uint64_t>(i);
    if (i <= kWarm) {
      Tensor pattern = Pattern(shape, plan);
      from.Copy(from.device, pattern.raw(), bytes);
    }
    std::promise<void> done;
    Clock::time_point begin, end;
    receiver.Receive(got, plan);
    receiver.stream.Enqueue([&] {
      if (by_host) to.Copy(to.device, to.pinned, bytes);
      end = Clock::now();
      done.set_value();
    });
    sender.stream.Enqueue([&] {
      begin = Clock::now();
      if (by_host) from.Copy(from.pinned, from.device, bytes);
    });
    sender.lane->Send(sender.stream, rows, plan, kPatience);
    done.get_future().wait();
    sender.stream.Fence();
    PENSTOCK_CHECK(receiver.stream.status().ok() && sender.stream.status().ok());
    if (i <= kWarm) {
      const Tensor check = Poisoned(shape);
      to.Copy(const_cast<void*>(check.raw()), to.device, bytes);
      PENSTOCK_CHECK(HoldsPattern(check, plan));
    } else {
      hops.push_back(std::chrono::duration<double, std::micro>(end - begin).count());
    }
  }
  std::sort(hops.begin(), hops.end());
  std::printf("%-5s %8lld bytes: %8.1f us a hop (median), %8.1f (p99)\n", name,
              static_cast<long long>(bytes), hops[kTimed / 2], hops[kTimed * 99 / 100]);
  std::fflush(stdout);
}

void Run(int from, int to) {
  const auto exchange = std::make_shared<LocalExchange>();
  for (const int64_t bytes :
       {int64_t{8} << 10, int64_t{512} << 10, int64_t{4} << 20, int64_t{32} << 20}) {
    const Place source(from, bytes);
    const Place target(to, bytes);
    PeerEndpoint a(exchange, absl::StrCat("cuda:", from), 2 * bytes, {});
    PeerEndpoint b(exchange, absl::StrCat("cuda:", to), 2 * bytes, {});
    Hop("peer", a, b, source, target, /*by_host=*/false, bytes);
    GrpcEndpoint c(UnixAddress(), {});
    GrpcEndpoint d(UnixAddress(), {});
    Hop("grpc", c, d, source, target, /*by_host=*/true, bytes);
    if (from == to || !NcclLibrary::Open().ok()) continue;
    const auto by_nccl = [](int gpu) {
      return std::make_unique<NcclEndpoint>(
          std::make_unique<GrpcEndpoint>(UnixAddress(), GrpcTransportOptions{}),
          absl::StrCat("cuda:", gpu), TransportOptions{});
    };
    const auto e = by_nccl(from), f = by_nccl(to);
    Hop("nccl", *e, *f, source, target, /*by_host=*/false, bytes);
  }
}

}  // namespace
}  // namespace penstock::testing

int main(int argc, char** argv) {
  const bool told = argc == 3;
  penstock::testing::Run(told ? std::atoi(argv[1]) : 0, told ? std::atoi(argv[2]) : 0);
  return 0;
}
