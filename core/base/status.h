// Errors that the world causes are values: absl::Status and absl::StatusOr. Our own mistakes are
// CHECKs (check.h). This header adds the two macros that pass a Status up, and the bridges between
// std::string_view and Debian's absl::string_view, which are different types.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace penstock {

inline absl::string_view Abs(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view Std(absl::string_view text) { return {text.data(), text.size()}; }

// "NOT_FOUND: no such file" without the code: what a user should read.
inline std::string Message(const absl::Status& status) { return std::string(status.message()); }

// The same status, its message opened with "<where>: ".
inline absl::Status Annotate(const absl::Status& status, std::string_view where) {
  if (status.ok()) return status;
  return {status.code(), absl::StrCat(Abs(where), ": ", status.message())};
}

}  // namespace penstock

#define PENSTOCK_CONCAT_INNER(a, b) a##b
#define PENSTOCK_CONCAT(a, b) PENSTOCK_CONCAT_INNER(a, b)

#define PENSTOCK_RETURN_IF_ERROR(expression)                                \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

// PENSTOCK_ASSIGN_OR_RETURN(auto value, MayFail());
#define PENSTOCK_ASSIGN_OR_RETURN(declaration, expression) \
  PENSTOCK_ASSIGN_OR_RETURN_INNER(PENSTOCK_CONCAT(status_or_, __LINE__), declaration, expression)
#define PENSTOCK_ASSIGN_OR_RETURN_INNER(result, declaration, expression) \
  auto result = (expression);                                            \
  if (!result.ok()) return std::move(result).status();                   \
  declaration = std::move(result).value()
