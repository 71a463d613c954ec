#include "frontend/trace_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using Json = nlohmann::json;

constexpr absl::Duration kNever = absl::Hours(10);

class TraceWriterTest : public testing::Test {
 protected:
  TraceWriterTest() : path_(testing::TempDir() + "penstock_trace_" + std::to_string(getpid())) {
    options_.path = path_;
    options_.steady_ns = [this] { return now_ns_.load(); };
    options_.now = [this] { return absl::FromUnixNanos(1'000'000'000'000 + now_ns_); };
  }
  ~TraceWriterTest() override { std::filesystem::remove(path_); }

  void Open() {
    absl::StatusOr<std::unique_ptr<TraceWriter>> writer = TraceWriter::Open(options_, 2);
    ASSERT_TRUE(IsOk(writer));
    writer_ = *std::move(writer);
  }
  std::string Text() const {
    std::ifstream file(path_);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  // The names of the events after the head's, once the writer is closed.
  std::vector<std::string> Names() {
    writer_.reset();
    std::vector<std::string> names;
    for (const Json& event : Json::parse(Text())) {
      if (event["ph"] != "M") names.push_back(event["name"]);
    }
    return names;
  }

  const std::string path_;
  std::atomic<int64_t> now_ns_{5'000'000'000};  // read by the writing thread too
  TraceOptions options_;
  std::unique_ptr<TraceWriter> writer_;
};

TEST_F(TraceWriterTest, WritesWhatItIsTold) {
  Open();
  now_ns_ += 100'000'000;
  StageRecord record;
  record.stage = 1;
  record.plan = 3;
  record.submitted = options_.now() - absl::Milliseconds(20);
  record.received = options_.now() - absl::Milliseconds(1);
  record.times.start_ns = now_ns_ - 15'000'000;
  record.times.compute_ns = 10'000'000;
  writer_->OnStage(record);
  writer_->OnGauges({});
  writer_->OnPreemption(8);
  writer_->OnStageLost(0, absl::UnavailableError("gone"));
  writer_->OnRecovered(absl::Milliseconds(120));
  EXPECT_EQ(Names(), (std::vector<std::string>{"compute", "plan", "plan", "requests", "KV blocks",
                                               "plans in flight", "preempted: request 8",
                                               "lost: gone", "recovered after 120 ms"}));
  std::map<std::string, double> times;
  for (const Json& event : Json::parse(Text())) {
    if (event.contains("ts")) times[event["ph"]] = event["ts"];
  }
  EXPECT_EQ(times["X"], 85'000);
  EXPECT_EQ(times["b"], 80'000);
  EXPECT_EQ(times["e"], 99'000);
  EXPECT_EQ(times["i"], 100'000);
}

TEST_F(TraceWriterTest, AnEmptyTraceIsWhole) {
  Open();
  EXPECT_TRUE(Names().empty());
}

TEST_F(TraceWriterTest, WhatIsOnDiskLacksOnlyItsEnd) {
  options_.period = absl::Milliseconds(1);
  Open();
  writer_->OnPreemption(1);
  std::string text;
  // A kill now would leave this.
  while (text.find("request 1") == std::string::npos || !Json::accept(text + "]")) text = Text();
  EXPECT_FALSE(Json::accept(text));
}

TEST_F(TraceWriterTest, ARingThatIsFullLosesAndSaysSo) {
  options_.ring_events = 16;
  options_.period = kNever;
  Open();
  for (int i = 0; i < 100; ++i) writer_->OnPreemption(i);
  const std::vector<std::string> names = Names();
  ASSERT_EQ(names.size(), 17u);
  EXPECT_EQ(names[15], "preempted: request 15");
  EXPECT_EQ(names[16].find("84 events were lost"), 0u);
}

TEST_F(TraceWriterTest, ManyMoreEventsThanTheRingHolds) {
  options_.ring_events = 64;
  options_.period = absl::Milliseconds(1);
  Open();
  constexpr int kEvents = 20'000;
  for (int i = 0; i < kEvents; ++i) writer_->OnPreemption(i);
  int64_t seen = 0;
  int64_t last = -1;
  for (const std::string& name : Names()) {
    const std::string prefix = "preempted: request ";
    if (name.rfind(prefix, 0) == 0) {
      const int64_t id = std::stoll(name.substr(prefix.size()));
      EXPECT_GT(id, last);
      last = id;
      ++seen;
    } else {
      seen += std::stoll(name);  // so many were lost
    }
  }
  EXPECT_EQ(seen, kEvents);
}

TEST_F(TraceWriterTest, TheFileEndsAtItsLimit) {
  options_.max_bytes = 1 << 16;
  options_.period = absl::Milliseconds(1);
  Open();
  while (Text().find("--trace-max-mib") == std::string::npos) {
    writer_->OnPreemption(1);
    writer_->OnGauges({});
    usleep(10);
  }
  writer_->OnPreemption(123456);
  const std::vector<std::string> names = Names();
  EXPECT_EQ(names.back(), "the trace ends here: --trace-max-mib is reached");
  EXPECT_LE(std::filesystem::file_size(path_), 1u << 16);
}

TEST_F(TraceWriterTest, SaysThatTheFileCannotBeWritten) {
  options_.path = "/nowhere/trace";
  EXPECT_TRUE(Fails(TraceWriter::Open(options_, 1), absl::StatusCode::kInvalidArgument,
                    {"/nowhere/trace", "writable folder"}));
}

TEST_F(TraceWriterTest, AFullDiskEndsTheTraceAndNothingElse) {
  options_.path = "/dev/full";
  options_.period = absl::Milliseconds(1);
  Open();
  for (int i = 0; i < 100; ++i) writer_->OnPreemption(i);
  writer_.reset();
}

}  // namespace
}  // namespace penstock
