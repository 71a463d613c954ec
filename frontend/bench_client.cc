#include "frontend/bench_client.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/time/clock.h"
#include "core/base/check.h"
#include "frontend/rpc_status.h"
#include "penstock/v1/inference.grpc.pb.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kProgressPeriod{100};

int64_t Ns(Clock::duration time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}

// What the calls of one run share.
class Tally {
 public:
  void CountTokens(int64_t count) { tokens_.fetch_add(count, std::memory_order_relaxed); }
  int64_t tokens() const { return tokens_.load(std::memory_order_relaxed); }

  void Begin() {
    std::lock_guard<std::mutex> lock(mutex_);
    ++running_;
  }
  void End() {
    // The last one's waiter may destroy this at once.
    std::lock_guard<std::mutex> lock(mutex_);
    --running_;
    ++done_;
    changed_.notify_all();
  }
  // Until at most `running` calls are under way, or until then.
  bool WaitUntil(int64_t running, Clock::time_point until) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_until(lock, until, [&] { return running_ <= running; });
  }
  int64_t done() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return done_;
  }

 private:
  std::atomic<int64_t> tokens_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t running_ = 0;  // guarded by mutex_
  int64_t done_ = 0;     // guarded by mutex_
};

class Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(Tally& tally, int64_t vocabulary) : tally_(tally), vocabulary_(vocabulary) {}

  void Start(v1::Inference::Stub& stub, const v1::GenerateRequest& request,
             absl::Duration timeout) {
    if (timeout < absl::InfiniteDuration()) {
      context_.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    }
    tally_.Begin();
    sent_ = Clock::now();
    stub.async()->Generate(&context_, &request, this);
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.ids_size() > 0) TakeIds(Clock::now());
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    result.end_ns = Ns(Clock::now() - sent_);
    if (!status.ok()) {
      const absl::Status error = FromRpcStatus(status);
      result.error = absl::StatusCodeToString(error.code());
      result.message = Message(error);
    }
    // A wrong answer weighs more than how its call ended: too long a one is broken off.
    const auto count = static_cast<int64_t>(result.ids.size());
    if (count > result.output_tokens || (status.ok() && count != result.output_tokens)) {
      result.error = "WRONG_LENGTH";
      result.message =
          absl::StrCat(count, " tokens came and ", result.output_tokens, " were asked for");
    }
    for (const int32_t id : result.ids) {
      if (id >= 0 && id < vocabulary_) continue;
      result.error = "BAD_ID";
      result.message = absl::StrCat("the token id ", id, " is not in the vocabulary");
    }
    tally_.End();  // last: this object may be gone
  }

  BenchCall result;

 private:
  void TakeIds(Clock::time_point now) {
    const int count = response_.ids_size();
    if (result.ids.empty()) {
      result.first_ns = Ns(now - sent_);
      result.gaps_ns.assign(static_cast<size_t>(count - 1), 0);
    } else {
      const double gap = static_cast<double>(Ns(now - last_)) / count;
      result.gaps_ns.insert(result.gaps_ns.end(), static_cast<size_t>(count), gap);
    }
    last_ = now;
    result.ids.insert(result.ids.end(), response_.ids().begin(), response_.ids().end());
    tally_.CountTokens(count);
    if (static_cast<int64_t>(result.ids.size()) > result.output_tokens) context_.TryCancel();
  }

  Tally& tally_;
  const int64_t vocabulary_;
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
  Clock::time_point sent_;
  Clock::time_point last_;
};

}  // namespace

v1::GenerateRequest BenchRequest(const TraceRequest& request, const BenchRunOptions& options) {
  v1::GenerateRequest message;
  const std::vector<int32_t> ids =
      TracePromptIds(request.seed + options.seed, request.prompt, options.vocabulary);
  message.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  v1::SamplingParams* const sampling = message.mutable_sampling();
  sampling->set_max_tokens(request.output);
  sampling->set_temperature(0);
  sampling->set_ignore_eos(true);
  return message;
}

std::vector<BenchCall> RunBench(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                                const std::vector<TraceRequest>& trace,
                                const BenchRunOptions& options, const BenchProgress& progress) {
  PENSTOCK_CHECK(!channels.empty());
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs;
  stubs.reserve(channels.size());
  for (const auto& channel : channels) stubs.push_back(v1::Inference::NewStub(channel));
  Tally tally;
  std::vector<std::unique_ptr<Call>> calls;
  const auto wait = [&](int64_t running, Clock::time_point until) {
    while (true) {
      const bool reached =
          tally.WaitUntil(running, std::min(until, Clock::now() + kProgressPeriod));
      progress(tally.done(), tally.tokens());
      if (reached || Clock::now() >= until) return;
    }
  };
  const auto never = Clock::time_point::max();
  const Clock::time_point start = Clock::now();
  for (const TraceRequest& request : trace) {
    const Clock::time_point due =
        start + std::chrono::duration_cast<Clock::duration>(
                    std::chrono::duration<double>(request.arrival / options.rate_scale));
    // However many are under way: only the time ends this.
    if (due > Clock::now()) wait(-1, due);
    const v1::GenerateRequest message = BenchRequest(request, options);
    if (options.concurrency > 0) wait(options.concurrency - 1, never);
    calls.push_back(std::make_unique<Call>(tally, options.vocabulary));
    Call& call = *calls.back();
    call.result.prompt_tokens = request.prompt;
    call.result.output_tokens = request.output;
    const Clock::time_point now = Clock::now();
    call.result.sent_ns = Ns(now - start);
    call.result.late_ns = Ns(now - due);
    call.Start(*stubs[calls.size() % stubs.size()], message, options.timeout);
  }
  wait(0, never);
  std::vector<BenchCall> results;
  results.reserve(calls.size());
  for (const auto& call : calls) results.push_back(std::move(call->result));
  return results;
}

}  // namespace penstock
