// What every target demands of a refusal: a sentence for people that names the file, with nothing
// in it that a terminal or a log could trip over.
#pragma once

#include <string_view>

#include "core/base/check.h"
#include "core/base/status.h"

namespace penstock::fuzz {

inline void CheckMessage(const absl::Status& status, std::string_view file) {
  const std::string_view message = Std(status.message());
  PENSTOCK_CHECK(message.find(file) != message.npos);
  for (const char c : message) PENSTOCK_CHECK(c >= 0x20 && c < 0x7f);
}

}  // namespace penstock::fuzz
