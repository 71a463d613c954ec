#include "core/tensor/allocator.h"

#include <cstdlib>

#include "core/base/check.h"
#include "core/base/checked_size.h"

namespace penstock {

absl::StatusOr<void*> HostAllocator::Allocate(int64_t bytes) {
  PENSTOCK_CHECK_GT(bytes, 0);
  const auto padded = CheckedSize(bytes).RoundUp(kAlignment).value();
  void* data = padded ? std::aligned_alloc(kAlignment, static_cast<size_t>(*padded)) : nullptr;
  if (data == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "out of host memory: ", bytes,
        " bytes were asked for; lower --kv-memory-mib or --max-step-tokens, or free memory"));
  }
  bytes_in_use_.fetch_add(bytes, std::memory_order_relaxed);
  return data;
}

void HostAllocator::Free(void* data, int64_t bytes) {
  bytes_in_use_.fetch_sub(bytes, std::memory_order_relaxed);
  std::free(data);
}

absl::StatusOr<std::shared_ptr<void>> AllocateShared(BaseAllocator& allocator, int64_t bytes) {
  PENSTOCK_ASSIGN_OR_RETURN(void* data, allocator.Allocate(bytes));
  return std::shared_ptr<void>(data, [&allocator, bytes](void* p) { allocator.Free(p, bytes); });
}

}  // namespace penstock
