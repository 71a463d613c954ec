#include "worker/backends.h"

#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "core/base/quoted.h"
#include "core/model/cpu_backend.h"
#include "core/tensor/host_mail.h"
#include "core/tensor/host_peer_memory.h"
#ifdef PENSTOCK_CUDA
#include "cuda/cuda_backend.h"
#include "cuda/link_stream.h"
#include "cuda/peer_memory.h"
#endif

namespace penstock {
namespace {

constexpr std::string_view kCuda = "cuda:";

#ifdef PENSTOCK_CUDA

absl::StatusOr<std::unique_ptr<Backend>> MakeGpuBackend(int ordinal, const StageOptions& options,
                                                        const ModelConfig& config) {
  if (options.invariant && options.prefill_attention == PrefillAttention::kPadded) {
    return absl::InvalidArgumentError(
        "--invariant does not go with --prefill-attention padded, whose sums have another order: "
        "leave one of them out");
  }
  CudaBackendOptions cuda;
  cuda.ordinal = ordinal;
  cuda.precision = options.precision;
  cuda.heads = {config.num_heads, config.num_kv_heads, config.head_dim};
  cuda.vocab_size = config.vocab_size;
  cuda.max_sequences = options.max_sequences;
  cuda.threads = options.threads;
  cuda.graphs = options.graphs;
  cuda.invariant = options.invariant;
  cuda.gemm_table = options.gemm_table;
  cuda.mail = options.device_mail && options.num_stages > 1;
  cuda.guard_memory = options.guard_memory;
  return MakeCudaBackend(cuda);
}

absl::StatusOr<std::unique_ptr<PeerMemory>> MakeGpuPeerMemory(int ordinal,
                                                              const std::string& /*device*/) {
  return MakeCudaPeerMemory(ordinal);
}

absl::Status CheckGpuPeerMemory(int from, int to, const std::string& /*device*/) {
  return CheckPeerGpus(from, to);
}

absl::StatusOr<std::unique_ptr<LinkStream>> MakeGpuLinkStream(int ordinal, int64_t scratch_bytes,
                                                              const std::string& /*device*/) {
  return MakeCudaLinkStream(ordinal, scratch_bytes);
}

#else

absl::StatusOr<std::unique_ptr<Backend>> MakeGpuBackend(int /*ordinal*/,
                                                        const StageOptions& options,
                                                        const ModelConfig& /*config*/) {
  return WithoutCuda(options.device);
}

absl::StatusOr<std::unique_ptr<PeerMemory>> MakeGpuPeerMemory(int /*ordinal*/,
                                                              const std::string& device) {
  return WithoutCuda(device);
}

absl::Status CheckGpuPeerMemory(int /*from*/, int /*to*/, const std::string& device) {
  return WithoutCuda(device);
}

absl::StatusOr<std::unique_ptr<LinkStream>> MakeGpuLinkStream(int /*ordinal*/,
                                                              int64_t /*scratch_bytes*/,
                                                              const std::string& device) {
  return WithoutCuda(device);
}

#endif

}  // namespace

absl::Status WithoutCuda(const std::string& device) {
  return absl::UnimplementedError(
      absl::StrCat("--device ", device,
                   ": this program was built without CUDA: build it with cmake --preset cuda, or "
                   "compute on the CPU with --device cpu"));
}

absl::StatusOr<int> DeviceOrdinal(const std::string& device) {
  if (device == "cpu") return -1;
  int ordinal = 0;
  if (device.rfind(kCuda, 0) != 0 || !absl::SimpleAtoi(device.substr(kCuda.size()), &ordinal) ||
      ordinal < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(device), " is no device: use cpu, or cuda: and the ordinal of a GPU, as in cuda:0"));
  }
  return ordinal;
}

absl::StatusOr<std::vector<std::string>> StageDevices(const std::string& devices,
                                                      int64_t num_stages) {
  std::vector<std::string> names;
  if (devices == "cuda") {
    for (int64_t i = 0; i < num_stages; ++i) names.push_back(absl::StrCat(Abs(kCuda), i));
    return names;
  }
  names = absl::StrSplit(devices, ',');
  for (const std::string& name : names) PENSTOCK_RETURN_IF_ERROR(DeviceOrdinal(name).status());
  if (names.size() == 1) names.resize(static_cast<size_t>(num_stages), names[0]);
  if (static_cast<int64_t>(names.size()) == num_stages) return names;
  return absl::InvalidArgumentError(absl::StrCat("--device ", devices, " names ", names.size(),
                                                 " devices for ", num_stages,
                                                 " stages: name one for all, or one a stage"));
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const StageOptions& options,
                                                     const ModelConfig& config) {
  PENSTOCK_ASSIGN_OR_RETURN(const int ordinal, DeviceOrdinal(options.device));
  if (ordinal < 0) {
    if (options.precision != DataType::kF32) {
      return absl::InvalidArgumentError(
          absl::StrCat("the CPU computes in f32, not in ", Abs(Name(options.precision)),
                       ": use --precision f32, or a GPU with --device cuda:0"));
    }
    std::unique_ptr<DeviceMail> mail;
    if (options.device_mail && options.num_stages > 1) mail = MakeHostMail(config.vocab_size);
    return std::make_unique<CpuBackend>(options.threads, std::move(mail));
  }
  return MakeGpuBackend(ordinal, options, config);
}

absl::StatusOr<std::unique_ptr<PeerMemory>> MakePeerMemory(const StageOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(const int ordinal, DeviceOrdinal(options.device));
  if (ordinal < 0) return MakeHostPeerMemory();
  return MakeGpuPeerMemory(ordinal, options.device);
}

absl::StatusOr<std::unique_ptr<LinkStream>> MakeLinkStream(const std::string& device,
                                                           int64_t scratch_bytes) {
  PENSTOCK_ASSIGN_OR_RETURN(const int ordinal, DeviceOrdinal(device));
  if (ordinal < 0) return std::make_unique<HostLinkStream>(scratch_bytes);
  return MakeGpuLinkStream(ordinal, scratch_bytes, device);
}

absl::Status CheckPeerMemory(const std::string& from, const std::string& to) {
  PENSTOCK_ASSIGN_OR_RETURN(const int first, DeviceOrdinal(from));
  PENSTOCK_ASSIGN_OR_RETURN(const int second, DeviceOrdinal(to));
  if (first < 0 && second < 0) return absl::OkStatus();
  if (first < 0 || second < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("a stage on ", from, " and one on ", to,
                     " have no memory in common: use --transport grpc"));
  }
  return CheckGpuPeerMemory(first, second, from);
}

}  // namespace penstock
