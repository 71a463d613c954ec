// StageEvents: keeps what a StageConnection tells, and lets a test wait for it.
// Thread rule: any thread. It must outlive the connection.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <variant>
#include <vector>

#include "frontend/stage_connection.h"

namespace penstock {

class StageEvents {
 public:
  StageProvider::EventCallback callback() {
    return [this](StageEvent event) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (std::holds_alternative<StageBeat>(event)) {
        beats_.push_back(std::get<StageBeat>(event));
      } else if (std::holds_alternative<LoadProgress>(event)) {
        progress_.push_back(std::get<LoadProgress>(event));
      } else {
        events_.push_back(std::move(event));
      }
      changed_.notify_all();
    };
  }

  // The next event that is neither beat nor progress; fails the test if it is none of this kind,
  // or does not come.
  template <typename T>
  T Next() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [this] { return next_ < events_.size(); })) {
      ADD_FAILURE() << "no event has come";
      return T();
    }
    const StageEvent& event = events_[next_++];
    if (const T* const found = std::get_if<T>(&event)) return *found;
    ADD_FAILURE() << "another event: " << Describe(event);
    return T();
  }

  // Waits until `count` beats have come; gives those that have.
  std::vector<StageBeat> Beats(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, kPatience, [&] { return beats_.size() >= count; });
    return beats_;
  }
  std::vector<LoadProgress> Progress(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, kPatience, [&] { return progress_.size() >= count; });
    return progress_;
  }
  // Events that Next has not given yet.
  size_t left() {
    std::lock_guard<std::mutex> lock(mutex_);
    return events_.size() - next_;
  }

 private:
  static constexpr std::chrono::seconds kPatience{60};

  static std::string Describe(const StageEvent& event) {
    if (const auto* const lost = std::get_if<StageLost>(&event)) {
      return "StageLost: " + lost->status.ToString();
    }
    if (const auto* const failed = std::get_if<EpochFailed>(&event)) {
      return "EpochFailed: " + failed->status.ToString();
    }
    return "number " + std::to_string(event.index());
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  std::vector<StageEvent> events_;
  size_t next_ = 0;
  std::vector<StageBeat> beats_;
  std::vector<LoadProgress> progress_;
};

}  // namespace penstock
