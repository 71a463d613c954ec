// Checks of our own mistakes: a failed one prints place, condition and both values, and aborts.
// What a file, a request or a peer can cause is never a CHECK but an absl::Status.
#pragma once

#include <sstream>
#include <string>

namespace penstock {

[[noreturn]] void CheckFailed(const char* file, int line, const std::string& what);

template <typename A, typename B>
std::string CheckText(const char* condition, const A& a, const B& b) {
  std::ostringstream text;
  text << condition << " (" << a << " vs " << b << ")";
  return text.str();
}

}  // namespace penstock

#define PENSTOCK_CHECK(condition)                              \
  do {                                                         \
    if (!(condition)) [[unlikely]]                             \
      ::penstock::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

#define PENSTOCK_CHECK_OP(a, op, b)                                                          \
  do {                                                                                       \
    const auto& check_a_ = (a);                                                              \
    const auto& check_b_ = (b);                                                              \
    if (!(check_a_ op check_b_)) [[unlikely]] {                                              \
      ::penstock::CheckFailed(__FILE__, __LINE__,                                            \
                              ::penstock::CheckText(#a " " #op " " #b, check_a_, check_b_)); \
    }                                                                                        \
  } while (false)

#define PENSTOCK_CHECK_EQ(a, b) PENSTOCK_CHECK_OP(a, ==, b)
#define PENSTOCK_CHECK_LE(a, b) PENSTOCK_CHECK_OP(a, <=, b)
#define PENSTOCK_CHECK_LT(a, b) PENSTOCK_CHECK_OP(a, <, b)
#define PENSTOCK_CHECK_GE(a, b) PENSTOCK_CHECK_OP(a, >=, b)
#define PENSTOCK_CHECK_GT(a, b) PENSTOCK_CHECK_OP(a, >, b)
