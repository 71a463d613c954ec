// Clients that leave at random points: nothing of them stays. PENSTOCK_TEST_CANCELS says how many
// (default 3,000).
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <random>

#include "tests/support/inference_fixture.h"

namespace penstock {
namespace {

int64_t NumCancels() {
  const char* text = std::getenv("PENSTOCK_TEST_CANCELS");
  return text == nullptr ? 3000 : std::atoll(text);
}

int64_t NumThreads() {
  const auto tasks = std::filesystem::directory_iterator("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

// Counts calls that are under way.
class Gate {
 public:
  void Enter(int64_t most) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return running_ < most; });
    ++running_;
  }
  void Leave() {
    std::lock_guard<std::mutex> lock(mutex_);
    --running_;
    changed_.notify_all();
  }
  void WaitUntilEmpty() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return running_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t running_ = 0;  // guarded by mutex_
};

// One call, which leaves after `messages` messages, or when told so; it deletes itself at its end.
class Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(v1::Inference::Stub& stub, const v1::GenerateRequest& request, int messages, Gate& gate,
       std::atomic<int64_t>& cancelled)
      : request_(request), messages_(messages), gate_(gate), cancelled_(cancelled) {
    stub.async()->Generate(&context_, &request_, this);
    AddHold();  // until Leave
    StartRead(&response_);
    StartCall();
  }
  // Once, from the thread that made it.
  void Leave(bool cancel) {
    if (cancel) context_.TryCancel();
    RemoveHold();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (--messages_ == 0) context_.TryCancel();
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    const bool was_cancelled = status.error_code() == grpc::StatusCode::CANCELLED;
    const bool known =
        was_cancelled || status.ok() || status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
    EXPECT_TRUE(known) << status.error_code() << ": " << status.error_message();
    if (was_cancelled) ++cancelled_;
    Gate& gate = gate_;
    delete this;
    gate.Leave();
  }

 private:
  const v1::GenerateRequest request_;
  int messages_;
  Gate& gate_;
  std::atomic<int64_t>& cancelled_;
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
};

class CancelStorm : public InferenceFixture {};

TEST_F(CancelStorm, NothingOfACancelledCallStays) {
  options_.engine.max_queued_requests = 1000;
  StartAll();
  std::mt19937 random(1);
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < 16; ++i) {
    v1::GenerateRequest request = Endless(1 + static_cast<int64_t>(random() % 120), 10 + i);
    request.mutable_sampling()->set_n(1 + static_cast<int32_t>(random() % 3));
    for (uint32_t more = random() % 100; more > 0; --more) {
      request.mutable_token_ids()->add_ids(static_cast<int32_t>(10 + random() % 20));
    }
    requests.push_back(std::move(request));
  }
  Gate gate;
  std::atomic<int64_t> cancelled{0};
  int64_t threads = 0;
  const int64_t total = NumCancels();
  int64_t made = 0;
  for (; cancelled < total && made < 20 * total; ++made) {
    if (made == total / 2) threads = NumThreads();
    gate.Enter(64);
    const uint32_t how = random() % 4;
    const int messages = how == 0 ? 1 + static_cast<int>(random() % 8) : 1 << 20;
    auto* call = new Call(*stub_, requests[random() % requests.size()], messages, gate, cancelled);
    if (how == 1) std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    call->Leave(how != 0 && how != 3);
    // Some stay for a while before they leave by themselves.
  }
  gate.WaitUntilEmpty();
  EXPECT_GE(cancelled, total) << made << " calls";
  EXPECT_TRUE(Eventually([this] { return EngineIsEmpty(); }));
  // gRPC's own pool breathes a little.
  EXPECT_LE(NumThreads(), threads + 4);
  // And the server answers as ever.
  Responses responses;
  const v1::GenerateRequest request = Endless(20);
  ASSERT_TRUE(Generate(request, &responses).ok());
  EXPECT_EQ(Ids(responses), Alone(request));
}

}  // namespace
}  // namespace penstock
