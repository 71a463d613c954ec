// The file that tells a script which port was taken.
#pragma once

#include <string>

#include "core/base/status.h"

namespace penstock {

// In one step, so that whoever waits for the file never reads half a number.
// Errors: INVALID_ARGUMENT.
absl::Status WritePortFile(const std::string& path, int port);

}  // namespace penstock
