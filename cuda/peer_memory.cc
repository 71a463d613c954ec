#include "cuda/peer_memory.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <optional>
#include <string>
#include <utility>

#include "core/base/check.h"
#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "cuda/stream.h"

namespace penstock {
namespace {

// The driver's function: asked for by name, so that programs link without the driver's library.
template <typename Function>
Function* DriverFunction(const char* name, Function* /*of its type*/, int version = 10020) {
  void* pointer = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  CUDA_CHECK(cudaGetDriverEntryPointByVersion(name, &pointer, static_cast<unsigned>(version),
                                              cudaEnableDefault, &result));
  PENSTOCK_CHECK(result == cudaDriverEntryPointSuccess);
  return reinterpret_cast<Function*>(pointer);
}

// All are of CUDA 10.2; names are macros that say the version where there are several.
struct Driver {
#define PENSTOCK_DRIVER_FUNCTION(name) \
  decltype(&::name) name = DriverFunction(#name, static_cast<decltype(&::name)>(nullptr))
  PENSTOCK_DRIVER_FUNCTION(cuDeviceGetAttribute);
  PENSTOCK_DRIVER_FUNCTION(cuGetErrorName);
  PENSTOCK_DRIVER_FUNCTION(cuMemAddressFree);
  PENSTOCK_DRIVER_FUNCTION(cuMemAddressReserve);
  PENSTOCK_DRIVER_FUNCTION(cuMemCreate);
  PENSTOCK_DRIVER_FUNCTION(cuMemExportToShareableHandle);
  PENSTOCK_DRIVER_FUNCTION(cuMemGetAllocationGranularity);
  PENSTOCK_DRIVER_FUNCTION(cuMemImportFromShareableHandle);
  PENSTOCK_DRIVER_FUNCTION(cuMemMap);
  PENSTOCK_DRIVER_FUNCTION(cuMemRelease);
  PENSTOCK_DRIVER_FUNCTION(cuMemSetAccess);
  PENSTOCK_DRIVER_FUNCTION(cuMemUnmap);
#undef PENSTOCK_DRIVER_FUNCTION
};

const Driver& TheDriver() {
  static const Driver& driver = *new Driver();
  return driver;
}

std::string ErrorName(CUresult error) {
  const char* name = nullptr;
  TheDriver().cuGetErrorName(error, &name);
  return name != nullptr ? name : absl::StrCat("error ", static_cast<int>(error));
}

void CheckDriver(CUresult error, const char* what) {
  // At the end of the process the driver may be gone before the object.
  if (error == CUDA_SUCCESS || error == CUDA_ERROR_DEINITIALIZED) return;
  CheckFailed(__FILE__, __LINE__, absl::StrCat(what, ": ", ErrorName(error)));
}

// For the thread at hand, which may be a new one: another GPU must not be opened by mistake.
void UseGpu(int ordinal) {
  const cudaError_t error = cudaSetDevice(ordinal);
  if (error != cudaErrorCudartUnloading) CUDA_CHECK(error);
}

// Made and destroyed on its GPU, by whichever thread.
struct CopyStream {
  explicit CopyStream(int gpu) : ordinal((UseGpu(gpu), gpu)) {}
  ~CopyStream() { UseGpu(ordinal); }
  CopyStream(const CopyStream&) = delete;
  CopyStream& operator=(const CopyStream&) = delete;

  // Copies, and waits for it.
  void Copy(void* to, const void* from, int64_t bytes) const {
    UseGpu(ordinal);
    CUDA_CHECK(
        cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream.get()));
    stream.Synchronize();
  }

  void Clear(void* from, int64_t bytes) const {
    UseGpu(ordinal);
    CUDA_CHECK(cudaMemsetAsync(from, 0, static_cast<size_t>(bytes), stream.get()));
    stream.Synchronize();
  }

  const int ordinal;
  const CudaStream stream;
};

// What is exported, and imported, is of this kind.
CUmemAllocationProp Property(int ordinal) {
  CUmemAllocationProp property = {};
  property.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  property.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  property.location.id = ordinal;
  property.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return property;
}

int64_t Unit(int ordinal) {
  const CUmemAllocationProp property = Property(ordinal);
  size_t unit = 0;
  CheckDriver(TheDriver().cuMemGetAllocationGranularity(&unit, &property,
                                                        CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
              "cuMemGetAllocationGranularity");
  return static_cast<int64_t>(unit);
}

// An allocation, released with the object: its mappings and descriptors keep the memory.
class Allocation {
 public:
  explicit Allocation(CUmemGenericAllocationHandle handle) : handle_(handle) {}
  Allocation(Allocation&& other) noexcept : handle_(std::exchange(other.handle_, 0)) {}
  ~Allocation() {
    if (handle_ != 0) CheckDriver(TheDriver().cuMemRelease(handle_), "cuMemRelease");
  }
  CUmemGenericAllocationHandle get() const { return handle_; }

 private:
  CUmemGenericAllocationHandle handle_;
};

// An allocation, at an address that one GPU reads and writes. The address is reserved anew each
// time: no graph binds it.
class Mapping {
 public:
  // Errors: the driver's refusal, which the caller puts into words.
  static CUresult Make(const Allocation& allocation, int64_t bytes, int ordinal,
                       std::optional<Mapping>* made) {
    const Driver& driver = TheDriver();
    const auto size = static_cast<size_t>(bytes);
    CUdeviceptr place = 0;
    CUresult error = driver.cuMemAddressReserve(&place, size, 0, 0, 0);
    if (error != CUDA_SUCCESS) return error;
    error = driver.cuMemMap(place, size, 0, allocation.get(), 0);
    if (error != CUDA_SUCCESS) {
      CheckDriver(driver.cuMemAddressFree(place, size), "cuMemAddressFree");
      return error;
    }
    made->emplace(Mapping(place, bytes, ordinal));  // from here on it goes with the object
    CUmemAccessDesc access = {};
    access.location = Property(ordinal).location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    error = driver.cuMemSetAccess(place, size, &access, 1);
    if (error != CUDA_SUCCESS) made->reset();
    return error;
  }
  Mapping(Mapping&& other) noexcept
      : place_(std::exchange(other.place_, 0)), bytes_(other.bytes_), ordinal_(other.ordinal_) {}
  ~Mapping() {
    if (place_ == 0) return;
    UseGpu(ordinal_);
    const auto size = static_cast<size_t>(bytes_);
    CheckDriver(TheDriver().cuMemUnmap(place_, size), "cuMemUnmap");
    CheckDriver(TheDriver().cuMemAddressFree(place_, size), "cuMemAddressFree");
  }

  int64_t bytes() const { return bytes_; }
  void* Part(int64_t offset, int64_t bytes) const {
    PENSTOCK_CHECK(offset >= 0 && bytes >= 0 && bytes <= bytes_ && offset <= bytes_ - bytes);
    // NOLINTNEXTLINE(performance-no-int-to-ptr): CUDA's addresses are integers
    return reinterpret_cast<void*>(place_ + static_cast<CUdeviceptr>(offset));
  }

 private:
  Mapping(CUdeviceptr place, int64_t bytes, int ordinal)
      : place_(place), bytes_(bytes), ordinal_(ordinal) {}

  CUdeviceptr place_;
  int64_t bytes_;
  int ordinal_;
};

class CudaMailbox final : public Mailbox {
 public:
  CudaMailbox(Allocation allocation, Mapping mapping, std::shared_ptr<CopyStream> stream)
      : allocation_(std::move(allocation)),
        mapping_(std::move(mapping)),
        stream_(std::move(stream)) {}

  int64_t bytes() const override { return mapping_.bytes(); }
  const void* address() const override { return mapping_.Part(0, mapping_.bytes()); }
  absl::StatusOr<OwnDescriptor> Export() override {
    int descriptor = -1;
    const CUresult error = TheDriver().cuMemExportToShareableHandle(
        &descriptor, allocation_.get(), CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    if (error == CUDA_SUCCESS) return OwnDescriptor(descriptor);
    return absl::ResourceExhaustedError(
        absl::StrCat("no descriptor for a mailbox: ", ErrorName(error),
                     ": raise ulimit -n, or use --transport grpc"));
  }
  void Read(int64_t offset, int64_t bytes, void* to) override {
    stream_->Copy(to, mapping_.Part(offset, bytes), bytes);
  }

 private:
  const Allocation allocation_;
  const Mapping mapping_;
  const std::shared_ptr<CopyStream> stream_;
};

class CudaPeerMailbox final : public PeerMailbox {
 public:
  CudaPeerMailbox(Mapping mapping, std::shared_ptr<CopyStream> stream)
      : mapping_(std::move(mapping)), stream_(std::move(stream)) {}
  void Write(int64_t offset, const void* from, int64_t bytes) override {
    stream_->Copy(mapping_.Part(offset, bytes), from, bytes);
  }
  void* address() const override { return mapping_.Part(0, mapping_.bytes()); }

 private:
  const Mapping mapping_;
  const std::shared_ptr<CopyStream> stream_;
};

class CudaPeerMemory final : public PeerMemory {
 public:
  explicit CudaPeerMemory(int ordinal) : ordinal_(ordinal), unit_(Unit(ordinal)) {}

  absl::StatusOr<std::shared_ptr<Mailbox>> MakeMailbox(int64_t bytes) override {
    PENSTOCK_CHECK_GT(bytes, 0);
    UseGpu(ordinal_);
    const int64_t whole = (bytes + unit_ - 1) / unit_ * unit_;
    const CUmemAllocationProp property = Property(ordinal_);
    CUmemGenericAllocationHandle handle = 0;
    CUresult error = TheDriver().cuMemCreate(&handle, static_cast<size_t>(whole), &property, 0);
    std::optional<Mapping> mapping;
    std::optional<Allocation> allocation;
    if (error == CUDA_SUCCESS) {
      allocation.emplace(handle);
      error = Mapping::Make(*allocation, whole, ordinal_, &mapping);
    }
    if (error != CUDA_SUCCESS) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "GPU ", ordinal_, " has no mailbox of ", whole, " bytes: ", ErrorName(error),
          ": end the programs that use it, lower --max-step-tokens, or use --transport grpc"));
    }
    reads_->Clear(mapping->Part(0, whole), whole);
    // What a first copy loads or allocates is there before the stage is ready.
    reads_->Copy(mapping->Part(whole / 2, 1), mapping->Part(0, 1), 1);
    writes_->Copy(mapping->Part(whole / 2, 1), mapping->Part(0, 1), 1);
    return std::make_shared<CudaMailbox>(*std::move(allocation), *std::move(mapping), reads_);
  }

  absl::StatusOr<std::unique_ptr<PeerMailbox>> Map(OwnDescriptor descriptor,
                                                   int64_t bytes) override {
    UseGpu(ordinal_);
    CUmemGenericAllocationHandle handle = 0;
    CUresult error = TheDriver().cuMemImportFromShareableHandle(
        // NOLINTNEXTLINE(performance-no-int-to-ptr): so the driver takes a descriptor
        &handle, reinterpret_cast<void*>(static_cast<intptr_t>(descriptor.get())),
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    descriptor.Close();  // the mapping keeps the memory; the descriptor would too
    std::optional<Mapping> mapping;
    if (error == CUDA_SUCCESS) {
      const Allocation allocation(handle);
      error = Mapping::Make(allocation, bytes, ordinal_, &mapping);
    }
    if (error != CUDA_SUCCESS) {
      return absl::FailedPreconditionError(
          absl::StrCat("GPU ", ordinal_, " cannot map the next stage's mailbox of ", bytes,
                       " bytes: ", ErrorName(error),
                       ": both stages need a GPU of this machine that reaches the other one's "
                       "(nvidia-smi topo -m); else use --transport grpc"));
    }
    return std::make_unique<CudaPeerMailbox>(*std::move(mapping), writes_);
  }

 private:
  const int ordinal_;
  const int64_t unit_;
  // Of all mailboxes here, and of all elsewhere: none is made once the stage is ready.
  const std::shared_ptr<CopyStream> reads_ = std::make_shared<CopyStream>(ordinal_);
  const std::shared_ptr<CopyStream> writes_ = std::make_shared<CopyStream>(ordinal_);
};

// Whether its memory can be a file descriptor's.
absl::Status CheckSharing(int ordinal) {
  for (const CUdevice_attribute attribute :
       {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED}) {
    int value = 0;
    // The runtime counts GPUs as the driver does.
    if (TheDriver().cuDeviceGetAttribute(&value, attribute, ordinal) != CUDA_SUCCESS ||
        value == 0) {
      return absl::UnimplementedError(absl::StrCat("GPU ", ordinal,
                                                   " cannot share memory between processes: use "
                                                   "--transport grpc"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<PeerMemory>> MakeCudaPeerMemory(int ordinal) {
  PENSTOCK_RETURN_IF_ERROR(OpenGpu(ordinal));
  PENSTOCK_RETURN_IF_ERROR(CheckSharing(ordinal));
  return std::make_unique<CudaPeerMemory>(ordinal);
}

absl::Status CheckPeerGpus(int from, int to) {
  for (const int ordinal : {from, to}) {
    PENSTOCK_RETURN_IF_ERROR(FindGpu(ordinal));
    PENSTOCK_RETURN_IF_ERROR(CheckSharing(ordinal));
  }
  int reaches = 1;
  if (from != to) CUDA_CHECK(cudaDeviceCanAccessPeer(&reaches, from, to));
  if (reaches != 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("GPU ", from, " does not reach the memory of GPU ", to,
                   " (nvidia-smi topo -m): use --transport grpc, or GPUs that are connected"));
}

}  // namespace penstock
