// Red zones around blocks: who stays inside is left alone, who does not is told of.
#include "core/tensor/guarded_raw.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

// The host's memory as if it were a device's; refuses what is larger than `most`.
class HostRaw final : public RawAllocator {
 public:
  explicit HostRaw(int64_t most) : most_(most) {}
  void* Allocate(int64_t bytes) override {
    if (bytes > most_) return nullptr;
    const auto alignment = static_cast<size_t>(PoolAllocator::kAlignment);
    return std::aligned_alloc(alignment,
                              (static_cast<size_t>(bytes) + alignment - 1) / alignment * alignment);
  }
  void Free(void* data) override { std::free(data); }
  Device device() const override { return Device::kCpu; }
  std::string name() const override { return "memory"; }

 private:
  const int64_t most_;
};

std::unique_ptr<PoolAllocator> MakeGuarded(int64_t most = 1 << 20) {
  GuardedRaw::Access access;
  access.fill = [](void* data, uint8_t value, int64_t bytes) {
    std::memset(data, value, static_cast<size_t>(bytes));
  };
  access.read = [](const void* data, uint8_t* host, int64_t bytes) {
    std::memcpy(host, data, static_cast<size_t>(bytes));
  };
  PoolOptions options;
  options.exact = true;
  return std::make_unique<PoolAllocator>(
      std::make_unique<GuardedRaw>(std::make_unique<HostRaw>(most), access), options);
}

TEST(GuardedRaw, LeavesBlocksAloneThatAreWrittenToTheLastByte) {
  const auto memory = MakeGuarded();
  for (const int64_t bytes : {1, 255, 256, 1000, 100'000}) {
    void* const data = memory->Allocate(bytes).value();
    std::memset(data, 0xff, static_cast<size_t>(bytes));
    EXPECT_EQ(memory->stats().bytes_in_use(), bytes);
    memory->Free(data, bytes);
    EXPECT_EQ(memory->stats().bytes_free(), 0);
  }
  const PoolAllocatorStats stats = memory->stats();
  EXPECT_EQ(stats.small.raw_allocations, 5);
  EXPECT_EQ(stats.small.raw_frees, 5);
  EXPECT_EQ(stats.small.hits, 0);
}

TEST(GuardedRaw, ARefusalIsTheDevices) {
  const auto memory = MakeGuarded(/*most=*/1024 + 2 * GuardedRaw::kZone);
  void* const data = memory->Allocate(1024).value();
  EXPECT_TRUE(
      Fails(memory->Allocate(1025).status(), absl::StatusCode::kResourceExhausted, {"memory"}));
  memory->Free(data, 1024);
}

TEST(GuardedRawDeathTest, TellsWhoWroteBeside) {
  const auto write = [](int64_t bytes, int64_t at) {
    const auto memory = MakeGuarded();
    auto* const data = static_cast<uint8_t*>(memory->Allocate(bytes).value());
    data[at] = 0;
    memory->Free(data, bytes);
  };
  EXPECT_DEATH(write(100, 100), "wrote behind a block of 100 bytes, at byte 0 of the 512");
  EXPECT_DEATH(write(100, 611), "wrote behind a block of 100 bytes, at byte 511 of the 512");
  EXPECT_DEATH(write(300, -1), "wrote before a block of 300 bytes, at byte 511 of the 512");
}

}  // namespace
}  // namespace penstock
