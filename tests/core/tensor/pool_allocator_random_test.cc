// The pooling policy under random requests: one thread against a model of the policy that is
// written another way (plain lists, searched from end to end), and many threads against each other.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "core/tensor/pool_allocator.h"
#include "gtest/gtest.h"
#include "tests/support/fake_raw_allocator.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using Kind = FakeDevice::Event::Kind;

struct Held {
  void* data;
  int64_t size;
};

// What the policy must do, given what the device answered.
class Model {
 public:
  explicit Model(const PoolOptions& options) : options_(options) {}

  // The pools were asked for `bytes` and answered `data` (null: refused), and the device saw `log`.
  void Allocate(int64_t bytes, void* data, const std::vector<FakeDevice::Event>& log) {
    const int64_t size = (bytes + 255) / 256 * 256;
    const bool is_big = size > options_.big_above;
    Side& side = is_big ? big_ : small_;
    ++side.stats.requests;
    size_t at = 0;
    int64_t got = 0;  // the block's size, 0 for none
    if (const int64_t fit = BestFit(side, is_big, size); fit != 0) {
      Take(side, {data, fit});
      ++side.stats.hits;
      got = fit;
    } else if (Try(side, size, data, log, at)) {
      got = size;
    } else {
      const bool first = is_big ? GiveBack({&big_}, log, at) : GiveBack({&big_, &small_}, log, at);
      if (first) ++side.stats.retries;
      if (first && Try(side, size, data, log, at)) {
        got = size;
      } else if (is_big && GiveBack({&small_}, log, at)) {
        ++side.stats.retries;
        if (Try(side, size, data, log, at)) got = size;
      }
    }
    EXPECT_EQ(at, log.size());
    EXPECT_EQ(got != 0, data != nullptr);
    if (got == 0) {
      ++side.stats.refused;
      return;
    }
    side.stats.bytes_in_use += got;
    stats_.bytes_requested += bytes;
    stats_.peak_in_use =
        std::max(stats_.peak_in_use, big_.stats.bytes_in_use + small_.stats.bytes_in_use);
    stats_.peak_held = std::max(stats_.peak_held, Bytes());
    // No overlap with a neighbour that is in use.
    const auto begin = reinterpret_cast<uint64_t>(data);
    const auto next = live_.lower_bound(begin);
    if (next != live_.end()) {
      EXPECT_LE(begin + static_cast<uint64_t>(got), next->first);
    }
    if (next != live_.begin()) {
      const auto& [address, size_before] = *std::prev(next);
      EXPECT_LE(address + static_cast<uint64_t>(size_before), begin);
    }
    live_[begin] = got;
  }

  void Free(void* data, int64_t bytes, const std::vector<FakeDevice::Event>& log) {
    const auto found = live_.find(reinterpret_cast<uint64_t>(data));
    ASSERT_NE(found, live_.end());
    const int64_t size = found->second;
    live_.erase(found);
    Side& side = size > options_.big_above ? big_ : small_;
    side.stats.bytes_in_use -= size;
    stats_.bytes_requested -= bytes;
    side.free.push_back({data, size});
    size_t at = 0;
    if (&side == &small_ && FreeBytes(small_) >= options_.small_trim) {
      ++trims_;
      GiveBack({&small_}, log, at);
    }
    EXPECT_EQ(at, log.size());
  }

  void ReleaseFree(const std::vector<FakeDevice::Event>& log) {
    size_t at = 0;
    GiveBack({&big_, &small_}, log, at);
    EXPECT_EQ(at, log.size());
  }

  PoolAllocatorStats stats() const {
    PoolAllocatorStats stats = stats_;
    stats.big = Complete(big_);
    stats.small = Complete(small_);
    return stats;
  }
  // In use and free.
  int64_t Bytes() const {
    return big_.stats.bytes_in_use + small_.stats.bytes_in_use + FreeBytes(big_) +
           FreeBytes(small_);
  }
  int64_t trims() const { return trims_; }

 private:
  struct Side {
    std::vector<Held> free;
    int64_t blocks = 0;
    PoolStats stats;
  };

  static int64_t FreeBytes(const Side& side) {
    int64_t bytes = 0;
    for (const Held& block : side.free) bytes += block.size;
    return bytes;
  }
  static PoolStats Complete(const Side& side) {
    PoolStats stats = side.stats;
    stats.blocks = side.blocks;
    stats.free_blocks = static_cast<int64_t>(side.free.size());
    stats.bytes_free = FreeBytes(side);
    return stats;
  }

  int64_t BestFit(const Side& side, bool is_big, int64_t size) const {
    int64_t best = 0;
    for (const Held& block : side.free) {
      const bool fits = block.size >= size && (!is_big || block.size < size + options_.max_waste);
      if (fits && (best == 0 || block.size < best)) best = block.size;
    }
    return best;
  }
  // It must be one of the free ones, of that size.
  static void Take(Side& side, const Held& block) {
    const auto found = std::find_if(side.free.begin(), side.free.end(), [&](const Held& free) {
      return free.data == block.data && free.size == block.size;
    });
    ASSERT_NE(found, side.free.end());
    side.free.erase(found);
  }
  // The log's next event must be an allocation of that size. True if it was given.
  static bool Try(Side& side, int64_t size, void* data, const std::vector<FakeDevice::Event>& log,
                  size_t& at) {
    if (at >= log.size() || log[at].kind == Kind::kFreed || log[at].bytes != size) {
      ADD_FAILURE() << "no raw allocation of " << size << " bytes where one was due";
      return false;
    }
    const FakeDevice::Event& event = log[at++];
    if (event.kind == Kind::kRefused) {
      ++side.stats.raw_failures;
      return false;
    }
    EXPECT_EQ(event.data, data);
    ++side.stats.raw_allocations;
    ++side.blocks;
    return true;
  }
  // The log's next events must be frees of all that these have free, in any order. True if any.
  static bool GiveBack(std::initializer_list<Side*> sides,
                       const std::vector<FakeDevice::Event>& log, size_t& at) {
    std::set<void*> due;
    for (Side* side : sides) {
      for (const Held& block : side->free) due.insert(block.data);
      side->stats.raw_frees += static_cast<int64_t>(side->free.size());
      side->blocks -= static_cast<int64_t>(side->free.size());
      side->free.clear();
    }
    const bool any = !due.empty();
    for (; !due.empty(); ++at) {
      if (at >= log.size() || log[at].kind != Kind::kFreed || due.erase(log[at].data) == 0) {
        ADD_FAILURE() << due.size() << " free blocks were not given back where they were due";
        return any;
      }
    }
    return any;
  }

  const PoolOptions options_;
  Side big_, small_;
  PoolAllocatorStats stats_;
  std::map<uint64_t, int64_t> live_;  // address -> size of the block
  int64_t trims_ = 0;
};

// Requests as loading and running make them: many small ones, some that come again and again, few
// giants; and phases in which more is taken than given, and the other way round.
TEST(PoolAllocatorRandom, AHundredThousandRequestsAgreeWithAModel) {
  constexpr int64_t kMiB = int64_t{1} << 20;
  constexpr int64_t kCapacity = int64_t{24} << 30;
  const PoolOptions options = {.small_trim = 16 * kMiB};
  std::mt19937_64 random(4);
  const auto below = [&](int64_t limit) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(limit));
  };
  FakeDevice device(kCapacity);
  int64_t injections = 0;
  device.refuse = [&] {
    const bool refused = below(50) == 0;
    if (refused) ++injections;
    return refused;
  };
  Model model(options);
  struct Request {
    void* data;
    int64_t bytes;
  };
  std::vector<Request> live;
  {
    PoolAllocator pools(device.MakeRaw(), options);
    const auto free_one = [&](int64_t index) {
      std::swap(live[static_cast<size_t>(index)], live.back());
      const Request request = live.back();
      live.pop_back();
      pools.Free(request.data, request.bytes);
      model.Free(request.data, request.bytes, device.TakeLog());
    };
    for (int64_t step = 0; step < 100'000; ++step) {
      const int64_t wanted = step / 5000 % 2 == 0 ? 65 : 35;  // percent of requests
      const bool full = live.size() > 400;
      if (!live.empty() && (full || below(100) >= wanted)) {
        free_one(below(static_cast<int64_t>(live.size())));
      } else if (below(5000) == 0) {
        pools.ReleaseFree();
        model.ReleaseFree(device.TakeLog());
      } else {
        int64_t bytes = 1;
        switch (below(6)) {
          case 0:
            bytes += below(kMiB);
            break;
          case 1:
            bytes += below(8192);
            break;
          case 2:
            bytes = kMiB - 300 + below(600);
            break;  // either side of the boundary
          case 3:
            bytes = (1 + below(12)) * 3 * kMiB - below(2) * (kMiB - 1 + below(3));
            break;
          case 4:
            bytes = 2 * kMiB + below(256 * kMiB);
            break;
          default:
            bytes = below(40) == 0 ? (int64_t{1} << 32) + below(8 * kCapacity) / 16
                                   : 4096 * (1 + below(64));
        }
        const auto data = pools.Allocate(bytes);
        if (!data.ok()) {
          ASSERT_TRUE(Fails(data, absl::StatusCode::kResourceExhausted, {"fake GPU"}));
        }
        model.Allocate(bytes, data.ok() ? *data : nullptr, device.TakeLog());
        if (data.ok()) live.push_back({*data, bytes});
      }
      ASSERT_EQ(pools.stats(), model.stats()) << "step " << step;
      ASSERT_EQ(device.bytes(), model.Bytes()) << "step " << step;
      ASSERT_FALSE(HasFailure()) << "step " << step;
    }
    // The mix reached every rule.
    const PoolAllocatorStats stats = pools.stats();
    for (const PoolStats& pool : {stats.big, stats.small}) {
      EXPECT_GT(pool.hits, 1000);
      EXPECT_GT(pool.raw_allocations, 1000);
      EXPECT_GT(pool.raw_failures, pool.retries / 2);
      EXPECT_GT(pool.retries, 50);
      EXPECT_GT(pool.refused, 0);
    }
    EXPECT_GT(model.trims(), 10);
    EXPECT_GT(injections, 100);
    while (!live.empty()) free_one(0);
    EXPECT_EQ(pools.stats().bytes_in_use(), 0);
    EXPECT_EQ(pools.stats().bytes_requested, 0);
  }
  // Every block went back, once: the device reports a second time.
  EXPECT_EQ(device.num_blocks(), 0);
  EXPECT_EQ(device.bytes(), 0);
}

// Host memory, of which only so much is given: real bytes, so that two threads in one block show as
// broken contents and, under the sanitizers, as a race.
class LimitedHost final : public RawAllocator {
 public:
  LimitedHost(int64_t capacity, std::map<void*, int64_t>& blocks)
      : capacity_(capacity), blocks_(blocks) {}

  // Neither locks: the pools promise that no call comes while another runs.
  void* Allocate(int64_t bytes) override {
    if (bytes > capacity_ - bytes_) return nullptr;
    void* data = std::aligned_alloc(PoolAllocator::kAlignment, static_cast<size_t>(bytes));
    blocks_[data] = bytes;
    bytes_ += bytes;
    return data;
  }
  void Free(void* data) override {
    bytes_ -= blocks_.at(data);
    blocks_.erase(data);
    std::free(data);
  }
  Device device() const override { return Device::kCpu; }
  std::string name() const override { return "host"; }

 private:
  const int64_t capacity_;
  int64_t bytes_ = 0;
  std::map<void*, int64_t>& blocks_;
};

TEST(PoolAllocatorRandom, ThreadsDoNotDisturbEachOther) {
  constexpr int kThreads = 4;
  constexpr int64_t kCapacity = 192 << 10;
  std::map<void*, int64_t> blocks;
  std::atomic<int64_t> given{0};
  std::atomic<int64_t> refused{0};
  {
    PoolAllocator pools(std::make_unique<LimitedHost>(kCapacity, blocks),
                        {.big_above = 4096, .max_waste = 4096, .small_trim = 24 << 10});
    const auto work = [&](int id) {
      std::mt19937 random(static_cast<uint32_t>(id));
      struct Request {
        unsigned char* data;
        int64_t bytes;
        unsigned char mark;
      };
      std::vector<Request> live;
      const auto free_last = [&] {
        const Request request = live.back();
        live.pop_back();
        for (int64_t i = 0; i < request.bytes; ++i) ASSERT_EQ(request.data[i], request.mark);
        pools.Free(request.data, request.bytes);
      };
      for (int step = 0; step < 4000; ++step) {
        if (live.size() > 12 || (!live.empty() && random() % 2 == 0)) {
          std::swap(live[random() % live.size()], live.back());
          free_last();
        } else {
          const auto bytes =
              static_cast<int64_t>(1 + random() % (random() % 3 == 0 ? 20000 : 4096));
          const auto data = pools.Allocate(bytes);
          if (!data.ok()) {
            refused.fetch_add(1, std::memory_order_relaxed);
            continue;
          }
          given.fetch_add(1, std::memory_order_relaxed);
          const auto mark = static_cast<unsigned char>(random());
          std::memset(*data, mark, static_cast<size_t>(bytes));
          live.push_back({static_cast<unsigned char*>(*data), bytes, mark});
        }
        if (step % 500 == 0) pools.ReleaseFree();
        if (step % 50 == 0) {
          const PoolAllocatorStats stats = pools.stats();
          EXPECT_LE(stats.bytes_in_use() + stats.bytes_free(), kCapacity);
          EXPECT_EQ(stats.small.requests,
                    stats.small.hits + stats.small.raw_allocations + stats.small.refused);
        }
      }
      while (!live.empty()) free_last();
    };
    std::vector<std::thread> threads;
    for (int id = 0; id < kThreads; ++id) threads.emplace_back(work, id);
    for (std::thread& thread : threads) thread.join();

    const PoolAllocatorStats stats = pools.stats();
    EXPECT_EQ(
        stats.big.hits + stats.big.raw_allocations + stats.small.hits + stats.small.raw_allocations,
        given.load());
    EXPECT_EQ(stats.big.refused + stats.small.refused, refused.load());
    EXPECT_GT(refused.load(), 0);
    EXPECT_GT(stats.big.retries + stats.small.retries, 0);
    EXPECT_GT(stats.big.hits + stats.small.hits, 0);
    EXPECT_EQ(stats.bytes_in_use(), 0);
    EXPECT_EQ(stats.bytes_requested, 0);
    EXPECT_LE(stats.peak_held, kCapacity);
  }
  EXPECT_TRUE(blocks.empty());
}

}  // namespace
}  // namespace penstock
