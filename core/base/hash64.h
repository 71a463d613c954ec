// A fast 64-bit hash of bytes, to tell files, tensors and texts apart. It keeps nobody out: whoever
// wants two inputs of one hash can make them.
// Source of the algorithm: the xxHash specification (XXH64, version 0.1.1), seed 0.
// Pure functions, thread-safe. Several GB/s: four lanes of 8 bytes.
#pragma once

#include <cstdint>
#include <string_view>

namespace penstock {

// The bytes as little-endian words, so the same on every machine.
uint64_t Hash64(const void* bytes, int64_t size);
inline uint64_t Hash64(std::string_view text) {
  return Hash64(text.data(), static_cast<int64_t>(text.size()));
}

}  // namespace penstock
