// FakeDevice: device memory without a device. Its addresses are made up and never touched, so
// blocks of many GiB cost nothing; it has a capacity, refuses when told to, keeps a log of what it
// was asked, and reports what a real one would die of (a free of what is not allocated). Thread
// rule: one thread at a time, which the pools promise.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor/pool_allocator.h"

namespace penstock {

class FakeDevice {
 public:
  struct Event {
    enum class Kind { kGiven, kRefused, kFreed };
    Kind kind;
    int64_t bytes;
    void* data;
  };

  explicit FakeDevice(int64_t capacity = std::numeric_limits<int64_t>::max())
      : capacity_(capacity) {}

  // Asked before each allocation: true refuses it.
  std::function<bool()> refuse = [] { return false; };

  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t bytes() const { return bytes_; }
  // What happened since the last call, in order.
  std::vector<Event> TakeLog() { return std::exchange(log_, {}); }

  // Makes the next allocation return that address.
  void ForceAddress(uint64_t address) { forced_ = reinterpret_cast<void*>(address); }

  // For one PoolAllocator; the device must outlive it.
  std::unique_ptr<RawAllocator> MakeRaw() { return std::make_unique<Raw>(*this); }

 private:
  class Raw final : public RawAllocator {
   public:
    explicit Raw(FakeDevice& device) : device_(device) {}
    void* Allocate(int64_t bytes) override { return device_.Allocate(bytes); }
    void Free(void* data) override { device_.Free(data); }
    Device device() const override { return Device::kCuda; }
    std::string name() const override { return "fake GPU"; }

   private:
    FakeDevice& device_;
  };

  void* Allocate(int64_t bytes) {
    EXPECT_GT(bytes, 0);
    EXPECT_EQ(bytes % PoolAllocator::kAlignment, 0);
    if (refuse() || bytes > capacity_ - bytes_) {
      log_.push_back({Event::Kind::kRefused, bytes, nullptr});
      return nullptr;
    }
    if (forced_ != nullptr) return std::exchange(forced_, nullptr);
    // An address that was used for this size comes again, so that stale notes about it would show.
    void* data = nullptr;
    if (auto& used = used_[bytes]; !used.empty()) {
      data = used.back();
      used.pop_back();
    } else {
      data = reinterpret_cast<void*>(next_);
      next_ += static_cast<uint64_t>(bytes);
    }
    blocks_[data] = bytes;
    bytes_ += bytes;
    log_.push_back({Event::Kind::kGiven, bytes, data});
    return data;
  }

  void Free(void* data) {
    const auto found = blocks_.find(data);
    if (found == blocks_.end()) {
      ADD_FAILURE() << "freed, but not allocated: " << data;
      return;
    }
    log_.push_back({Event::Kind::kFreed, found->second, data});
    bytes_ -= found->second;
    used_[found->second].push_back(data);
    blocks_.erase(found);
  }

  const int64_t capacity_;
  int64_t bytes_ = 0;
  uint64_t next_ = 0x100000;
  void* forced_ = nullptr;
  std::map<void*, int64_t> blocks_;
  std::map<int64_t, std::vector<void*>> used_;  // addresses that are free again, by size
  std::vector<Event> log_;
};

}  // namespace penstock
