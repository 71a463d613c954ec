// The unit in which KV memory is handed out, the same for the scheduler that counts blocks, the
// stages that hold them and the kernels that read them.
#pragma once

#include <cstdint>

namespace penstock {

inline constexpr int64_t kBlockSize = 64;  // tokens

// Blocks that hold `tokens` positions. REQUIRES: 0 <= tokens <= 2^62.
constexpr int64_t BlocksFor(int64_t tokens) { return (tokens + kBlockSize - 1) / kBlockSize; }

}  // namespace penstock
