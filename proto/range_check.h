// RangeCheck: holds the fields of a message that came over the wire against their ranges, and keeps
// the first that is out of its own. One thread at a time.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/base/status.h"

namespace penstock {

// Far above any real setting, and far below what could overflow a product of two.
inline constexpr int64_t kMaxStepTokens = 1 << 20;
inline constexpr int64_t kMaxSequences = 1 << 20;
inline constexpr int64_t kMaxThreads = 4096;
inline constexpr int64_t kMaxPosition = int64_t{1} << 40;
inline constexpr int64_t kMaxBytes = int64_t{1} << 50;
inline constexpr int64_t kMaxStages = 4096;
inline constexpr int64_t kMaxLayers = 1 << 20;
inline constexpr int64_t kMaxTextBytes = 4096;  // of an address, a version
inline constexpr float kMaxPenalty = 1e6f;

// The first field out of its range, kept until status() is asked for.
class RangeCheck {
 public:
  explicit RangeCheck(std::string_view message) : message_(message) {}

  void Integer(std::string_view field, int64_t value, int64_t low, int64_t high) {
    if (status_.ok() && (value < low || value > high)) {
      status_ = absl::InvalidArgumentError(absl::StrCat(Abs(message_), ".", Abs(field), " is ",
                                                        value, ", not in ", low, " to ", high));
    }
  }
  // NaN is in no range.
  void Real(std::string_view field, float value, float low, float high) {
    if (status_.ok() && !(value >= low && value <= high)) {
      status_ = absl::InvalidArgumentError(absl::StrCat(Abs(message_), ".", Abs(field), " is ",
                                                        value, ", not in ", low, " to ", high));
    }
  }
  const absl::Status& status() const { return status_; }

 private:
  std::string_view message_;
  absl::Status status_;
};

}  // namespace penstock
