#include "core/base/cpu_affinity.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <filesystem>
#include <fstream>
#include <thread>

namespace penstock {
namespace {

TEST(ParseCpuList, ReadsWhatLinuxWrites) {
  EXPECT_EQ(*ParseCpuList("0-3,8,10-11\n"), (std::vector<int>{0, 1, 2, 3, 8, 10, 11}));
  EXPECT_EQ(*ParseCpuList("5"), std::vector<int>{5});
  EXPECT_TRUE(ParseCpuList("\n")->empty());  // a device of no socket's
}

TEST(ParseCpuList, RefusesAllElse) {
  for (const char* text : {"a", "1-", "-1", "3-1", "1-2-3", "0-99999", "1;2", "99999999999"}) {
    const auto list = ParseCpuList(text);
    ASSERT_FALSE(list.ok()) << text;
    EXPECT_NE(list.status().message().find("such as 0-3,8"), std::string::npos) << text;
  }
}

std::vector<int> CoresOfThisThread() {
  cpu_set_t set;
  EXPECT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  std::vector<int> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cores.push_back(cpu);
  }
  return cores;
}

class KeepThreadNearTest : public testing::Test {
 protected:
  KeepThreadNearTest() {
    folder_ = std::filesystem::path(testing::TempDir()) /
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_ / "0000:3b:00.0");
  }
  ~KeepThreadNearTest() override { std::filesystem::remove_all(folder_); }

  void Near(const std::string& list) {
    std::ofstream(folder_ / "0000:3b:00.0" / "local_cpulist") << list << "\n";
  }
  // In a thread that keeps its cores to itself: what it gave, and the cores afterwards.
  std::pair<absl::StatusOr<int>, std::vector<int>> Keep(const std::string& address) {
    absl::StatusOr<int> count = 0;
    std::vector<int> cores;
    std::thread([&] {
      count = KeepThreadNear(address, folder_.string());
      std::thread([&] { cores = CoresOfThisThread(); }).join();  // one that it starts
    }).join();
    return {count, cores};
  }

  std::filesystem::path folder_;
};

TEST_F(KeepThreadNearTest, AThreadAndItsChildrenStayOnTheDevicesCores) {
  const int last = CoresOfThisThread().back();
  Near(std::to_string(last));
  const auto [count, cores] = Keep("0000:3B:00.0");
  EXPECT_EQ(*count, 1);
  EXPECT_EQ(cores, std::vector<int>{last});
}

TEST_F(KeepThreadNearTest, CoresThatItMayNotUseAreNoCores) {
  const std::vector<int> before = CoresOfThisThread();
  Near(std::to_string(before.back()) + "-1023");
  EXPECT_EQ(Keep("0000:3b:00.0").second, std::vector<int>{before.back()});
}

TEST_F(KeepThreadNearTest, WithoutACoreNearAllStaysAsItWas) {
  const std::vector<int> before = CoresOfThisThread();
  for (const char* list : {"1023", ""}) {
    Near(list);
    const auto [count, cores] = Keep("0000:3b:00.0");
    EXPECT_EQ(*count, 0);
    EXPECT_EQ(cores, before);
  }
  const auto [count, cores] = Keep("0000:99:00.0");  // no such device
  EXPECT_EQ(*count, 0);
  EXPECT_EQ(cores, before);
}

TEST_F(KeepThreadNearTest, AFileThatIsNoListIsAnError) {
  Near("all of them");
  EXPECT_EQ(Keep("0000:3b:00.0").first.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace penstock
