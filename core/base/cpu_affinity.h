// The cores of the host that are near a device: a thread that launches its kernels and copies its
// weights from another socket pays for the way on each launch and each byte.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace penstock {

// "0-3,8" as Linux writes it: {0, 1, 2, 3, 8}. Errors: INVALID_ARGUMENT.
absl::StatusOr<std::vector<int>> ParseCpuList(std::string_view list);

// From now on the calling thread, and those that it starts, run on the cores near the PCI device
// `address` ("0000:3b:00.0", upper or lower case) only, of those that they may run on (taskset, a
// container). Gives how many these are; 0 if all stays as it was, since the host does not tell (one
// without /sys) or may use none of them. `devices` is where Linux tells, for tests.
// Errors: INVALID_ARGUMENT for a file that is no list, INTERNAL if Linux refuses.
absl::StatusOr<int> KeepThreadNear(const std::string& address,
                                   const std::string& devices = "/sys/bus/pci/devices");

}  // namespace penstock
