// What a test says about an absl::Status: its code, and words that its message must hold.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace penstock {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

template <typename T>
::testing::AssertionResult IsOk(const T& result) {
  if (StatusOf(result).ok()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << StatusOf(result).ToString();
}

// The status has `code`, its message holds every one of `words`, and only printable ASCII.
template <typename T>
::testing::AssertionResult Fails(const T& result, absl::StatusCode code,
                                 std::initializer_list<std::string_view> words) {
  const absl::Status& status = StatusOf(result);
  const std::string message(status.message());
  if (status.code() != code) {
    return ::testing::AssertionFailure()
           << "expected " << absl::StatusCodeToString(code) << ", got " << status.ToString();
  }
  for (const std::string_view word : words) {
    if (message.find(word) == std::string::npos) {
      return ::testing::AssertionFailure() << "no \"" << word << "\" in: " << message;
    }
  }
  for (const char c : message) {
    if (c < 0x20 || c > 0x7e) return ::testing::AssertionFailure() << "unprintable: " << message;
  }
  return ::testing::AssertionSuccess();
}

}  // namespace penstock
