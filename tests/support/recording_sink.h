// RecordingSink: a TokenSink that keeps what it gets and lets a test wait for it. It notes every
// breach of the sink's contract in `breaches`.
// Thread rule: the questions are for any thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "frontend/engine_types.h"

namespace penstock {

class RecordingSink : public TokenSink {
 public:
  struct Record {
    std::vector<int32_t> tokens;
    std::vector<float> logprobs;
    std::vector<PromptLogprob> prompt;
    bool finished = false;
    FinishReason reason = FinishReason::kError;
    absl::StatusCode code = absl::StatusCode::kOk;
    std::string message;
    int breaches = 0;  // calls after the end, empty calls, calls from another thread
  };

  void OnPrompt(std::span<const PromptLogprob> logprobs) override {
    std::lock_guard<std::mutex> lock(mutex_);
    CheckCall();
    if (logprobs.empty() || !record_.tokens.empty()) ++record_.breaches;
    record_.prompt.insert(record_.prompt.end(), logprobs.begin(), logprobs.end());
  }
  void OnTokens(std::span<const GeneratedToken> tokens) override {
    std::lock_guard<std::mutex> lock(mutex_);
    CheckCall();
    if (tokens.empty()) ++record_.breaches;
    for (const GeneratedToken& token : tokens) {
      record_.tokens.push_back(token.id);
      record_.logprobs.push_back(token.logprob);
    }
    changed_.notify_all();
  }
  void OnFinish(FinishReason reason, const absl::Status& status) override {
    std::lock_guard<std::mutex> lock(mutex_);
    CheckCall();
    record_.finished = true;
    record_.reason = reason;
    record_.code = status.code();
    record_.message = Message(status);
    changed_.notify_all();
  }

  // Blocks until the request has ended.
  Record Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return record_.finished; });
    return record_;
  }
  void WaitForTokens(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return record_.tokens.size() >= count; });
  }
  Record record() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return record_;
  }

 private:
  void CheckCall() {
    if (!caller_) caller_ = std::this_thread::get_id();
    if (record_.finished || *caller_ != std::this_thread::get_id()) ++record_.breaches;
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Record record_;                          // guarded by mutex_
  std::optional<std::thread::id> caller_;  // guarded by mutex_
};

}  // namespace penstock
