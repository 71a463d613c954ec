// What a device can do at most, as measured: what a share is a share of.
#pragma once

#include <string>

namespace penstock {

struct DeviceCeilings {
  std::string device;                // its name
  double read_bytes_per_second = 0;  // of its memory
  double flops_per_second = 0;       // of a large matrix product; 0: not measured
};

}  // namespace penstock
