// Device memory of one process that another maps: by CUDA IPC handles, or by cuMemCreate
// allocations exported as file descriptors and mapped at an address reserved once.
#pragma once

#include <cuda.h>
#include <unistd.h>

#include <string>

#include "peer_stage.h"
#include "spike.h"

namespace spike {

constexpr size_t kMailboxUnit = size_t{2} << 20;

#define DRIVER_OK(call)                                                                        \
  do {                                                                                         \
    const CUresult error_ = (call);                                                            \
    if (error_ != CUDA_SUCCESS) {                                                              \
      const char* name_ = nullptr;                                                             \
      cuGetErrorName(error_, &name_);                                                          \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, name_ ? name_ : "?"); \
      std::exit(1);                                                                            \
    }                                                                                          \
  } while (false)

inline std::string ToHex(const void* data, size_t size) {
  std::string text;
  for (size_t i = 0; i < size; ++i) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<const unsigned char*>(data)[i]);
    text += digits;
  }
  return text;
}

inline void FromHex(const std::string& text, void* data, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    static_cast<unsigned char*>(data)[i] =
        static_cast<unsigned char>(std::stoul(text.substr(2 * i, 2), nullptr, 16));
  }
}

// The own mailbox: allocated alone, in whole units.
struct OwnMemory {
  void* address = nullptr;
  size_t bytes = 0;
  std::string handle;   // kIpc
  int descriptor = -1;  // kVmm

  static OwnMemory Make(MemoryKind kind, size_t wanted, int device) {
    OwnMemory memory;
    memory.bytes = (wanted + kMailboxUnit - 1) / kMailboxUnit * kMailboxUnit;
    if (kind == MemoryKind::kIpc) {
      CUDA_OK(cudaMalloc(&memory.address, memory.bytes));
      cudaIpcMemHandle_t handle;
      CUDA_OK(cudaIpcGetMemHandle(&handle, memory.address));
      memory.handle = ToHex(&handle, sizeof handle);
    } else {
      CUmemAllocationProp property = {};
      property.type = CU_MEM_ALLOCATION_TYPE_PINNED;
      property.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
      property.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
      CUmemGenericAllocationHandle allocation;
      DRIVER_OK(cuMemCreate(&allocation, memory.bytes, &property, 0));
      CUdeviceptr place = 0;
      DRIVER_OK(cuMemAddressReserve(&place, memory.bytes, 0, 0, 0));
      DRIVER_OK(cuMemMap(place, memory.bytes, 0, allocation, 0));
      const CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, device},
                                      CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
      DRIVER_OK(cuMemSetAccess(place, memory.bytes, &access, 1));
      DRIVER_OK(cuMemExportToShareableHandle(&memory.descriptor, allocation,
                                             CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
      memory.address = reinterpret_cast<void*>(place);
    }
    CUDA_OK(cudaMemset(memory.address, 0, memory.bytes));
    CUDA_OK(cudaDeviceSynchronize());
    return memory;
  }
};

// The neighbour's, mapped here; opened and closed again for each neighbour.
class PeerMemory {
 public:
  PeerMemory(MemoryKind kind, size_t bytes, int device)
      : kind_(kind),
        bytes_((bytes + kMailboxUnit - 1) / kMailboxUnit * kMailboxUnit),
        device_(device) {
    if (kind_ == MemoryKind::kVmm) DRIVER_OK(cuMemAddressReserve(&place_, bytes_, 0, 0, 0));
  }
  void* Open(const std::string& handle, int descriptor) {
    if (kind_ == MemoryKind::kIpc) {
      cudaIpcMemHandle_t binary;
      FromHex(handle, &binary, sizeof binary);
      CUDA_OK(cudaIpcOpenMemHandle(&address_, binary, cudaIpcMemLazyEnablePeerAccess));
      return address_;
    }
    CUmemGenericAllocationHandle allocation;
    DRIVER_OK(cuMemImportFromShareableHandle(
        &allocation, reinterpret_cast<void*>(static_cast<intptr_t>(descriptor)),
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    close(descriptor);
    DRIVER_OK(cuMemMap(place_, bytes_, 0, allocation, 0));
    const CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, device_},
                                    CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    DRIVER_OK(cuMemSetAccess(place_, bytes_, &access, 1));
    DRIVER_OK(cuMemRelease(allocation));  // the mapping keeps it
    return reinterpret_cast<void*>(place_);
  }
  // What the call said; 0 is success.
  int Close() {
    if (kind_ == MemoryKind::kIpc) return cudaIpcCloseMemHandle(address_);
    return cuMemUnmap(place_, bytes_);
  }

 private:
  const MemoryKind kind_;
  const size_t bytes_;
  const int device_;
  void* address_ = nullptr;
  CUdeviceptr place_ = 0;
};

}  // namespace spike
