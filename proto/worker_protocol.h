// The version of penstock.worker.v1 as these programs speak it. Front end and workers, and workers
// among each other, refuse another one: programs of one pipeline are of one release.
#pragma once

#include <cstdint>

namespace penstock {

inline constexpr uint32_t kWorkerProtocol = 1;

}  // namespace penstock
