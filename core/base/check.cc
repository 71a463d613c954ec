#include "core/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace penstock {

void CheckFailed(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "penstock: CHECK failed at %s:%d: %s\n", file, line, what.c_str());
  std::abort();
}

}  // namespace penstock
