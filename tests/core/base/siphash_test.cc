#include "core/base/siphash.h"

#include <gtest/gtest.h>

#include <array>
#include <numeric>

namespace penstock {
namespace {

TEST(SipHash, GivesTheReferencesVectors) {
  // Key 00 .. 0f, message 00, 01, ... of that length: rows of vectors_sip128 in the reference's
  // vectors.h. The words here are its bytes, read as little-endian.
  constexpr uint64_t kKey[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
  std::array<unsigned char, 64> message;
  std::iota(message.begin(), message.end(), 0);
  const auto hash = [&](int64_t size) { return SipHash128(kKey, message.data(), size); };
  EXPECT_EQ(hash(0), (Hash128{0xe6a825ba047f81a3, 0x930255c71472f66d}));
  EXPECT_EQ(hash(1), (Hash128{0x44af996bd8c187da, 0x45fc229b11597634}));
  EXPECT_EQ(hash(7), (Hash128{0x53c1dbd8beebf1a1, 0x3982f01fa64ab8c0}));
  EXPECT_EQ(hash(8), (Hash128{0x61f55862baa9623b, 0xb49714f364e2830f}));
  EXPECT_EQ(hash(15), (Hash128{0x11a8b03399e99354, 0xd9c3cf970fec087e}));
  EXPECT_EQ(hash(16), (Hash128{0xbb54b067caa4e26e, 0x77052385bf1533fd}));
  EXPECT_EQ(hash(63), (Hash128{0x4a83502f77d15051, 0x7cbd3f979a063e50}));
}

TEST(SipHash, DependsOnTheKey) {
  EXPECT_FALSE(SipHash128({0, 0}, "abc", 3) == SipHash128({1, 0}, "abc", 3));
  EXPECT_FALSE(SipHash128({0, 0}, "abc", 3) == SipHash128({0, 1}, "abc", 3));
}

}  // namespace
}  // namespace penstock
