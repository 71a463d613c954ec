// SipHash-2-4 with 128 bits: a keyed hash. Without the key nobody can look for two inputs of one
// hash, so it may stand for what users send, where hash64.h may not.
// Source of the algorithm: Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT
// 2012, and the 128-bit variant of its authors' reference, whose vectors the test has.
// Pure functions, thread-safe. About a byte a cycle.
#pragma once

#include <cstdint>

namespace penstock {

struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;

  friend bool operator==(const Hash128& a, const Hash128& b) {
    return a.low == b.low && a.high == b.high;
  }
};

// The bytes as little-endian words, so the same on every machine. REQUIRES: size >= 0.
Hash128 SipHash128(const uint64_t (&key)[2], const void* bytes, int64_t size);

}  // namespace penstock
