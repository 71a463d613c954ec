#include "core/tensor/guarded_raw.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/base/check.h"

namespace penstock {
namespace {

constexpr uint8_t kPattern = 0xb7;  // as f32, bf16 or an index it is nothing that a kernel leaves

}  // namespace

GuardedRaw::GuardedRaw(std::unique_ptr<RawAllocator> raw, Access access)
    : raw_(std::move(raw)), access_(std::move(access)) {}

void* GuardedRaw::Allocate(int64_t bytes) {
  void* const begin = raw_->Allocate(bytes + 2 * kZone);
  if (begin == nullptr) return nullptr;
  uint8_t* const data = static_cast<uint8_t*>(begin) + kZone;
  access_.fill(begin, kPattern, kZone);
  access_.fill(data + bytes, kPattern, kZone);
  bytes_[data] = bytes;
  return data;
}

void GuardedRaw::Free(void* data) {
  const auto found = bytes_.find(data);
  PENSTOCK_CHECK(found != bytes_.end());
  const int64_t bytes = found->second;
  uint8_t* const block = static_cast<uint8_t*>(data);
  CheckZone(block - kZone, bytes, "before");
  CheckZone(block + bytes, bytes, "behind");
  bytes_.erase(found);
  raw_->Free(block - kZone);
}

void GuardedRaw::CheckZone(const uint8_t* zone, int64_t block_bytes, const char* side) const {
  std::array<uint8_t, kZone> seen;
  access_.read(zone, seen.data(), kZone);
  const auto wrong =
      std::find_if(seen.begin(), seen.end(), [](uint8_t byte) { return byte != kPattern; });
  if (wrong == seen.end()) return;
  CheckFailed(__FILE__, __LINE__,
              absl::StrCat(raw_->name(), ": something wrote ", side, " a block of ", block_bytes,
                           " bytes, at byte ", wrong - seen.begin(), " of the ", kZone,
                           " there; run the same under compute-sanitizer to learn what"));
}

}  // namespace penstock
