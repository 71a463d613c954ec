#include "core/base/quoted.h"

#include "absl/strings/escaping.h"
#include "core/base/status.h"

namespace penstock {

std::string Quoted(std::string_view text) {
  constexpr size_t kShown = 80;
  return absl::StrCat("'", absl::CHexEscape(Abs(text.substr(0, kShown))),
                      text.size() > kShown ? "..." : "", "'");
}

}  // namespace penstock
