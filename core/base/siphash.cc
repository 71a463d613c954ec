#include "core/base/siphash.h"

#include <bit>
#include <cstring>

namespace penstock {
namespace {

class State {
 public:
  explicit State(const uint64_t (&key)[2])
      : v0_(key[0] ^ 0x736f6d6570736575u),
        v1_(key[1] ^ 0x646f72616e646f6du ^ 0xee),  // 0xee, 0xdd: the variant of 128 bits
        v2_(key[0] ^ 0x6c7967656e657261u),
        v3_(key[1] ^ 0x7465646279746573u) {}

  void Absorb(uint64_t word) {
    v3_ ^= word;
    Rounds(2);
    v0_ ^= word;
  }
  Hash128 Finish() {
    Hash128 hash;
    v2_ ^= 0xee;
    Rounds(4);
    hash.low = v0_ ^ v1_ ^ v2_ ^ v3_;
    v1_ ^= 0xdd;
    Rounds(4);
    hash.high = v0_ ^ v1_ ^ v2_ ^ v3_;
    return hash;
  }

 private:
  void Rounds(int count) {
    for (int i = 0; i < count; ++i) {
      v0_ += v1_;
      v2_ += v3_;
      v1_ = std::rotl(v1_, 13) ^ v0_;
      v3_ = std::rotl(v3_, 16) ^ v2_;
      v0_ = std::rotl(v0_, 32);
      v2_ += v1_;
      v0_ += v3_;
      v1_ = std::rotl(v1_, 17) ^ v2_;
      v3_ = std::rotl(v3_, 21) ^ v0_;
      v2_ = std::rotl(v2_, 32);
    }
  }

  uint64_t v0_;
  uint64_t v1_;
  uint64_t v2_;
  uint64_t v3_;
};

}  // namespace

Hash128 SipHash128(const uint64_t (&key)[2], const void* bytes, int64_t size) {
  static_assert(std::endian::native == std::endian::little, "words are read as they lie");
  const auto* next = static_cast<const unsigned char*>(bytes);
  const unsigned char* const last = next + size / 8 * 8;
  State state(key);
  for (; next != last; next += 8) {
    uint64_t word = 0;
    std::memcpy(&word, next, sizeof(word));
    state.Absorb(word);
  }
  uint64_t rest = static_cast<uint64_t>(size) << 56;
  for (int64_t i = 0; i < size % 8; ++i) rest |= uint64_t{next[i]} << (8 * i);
  state.Absorb(rest);
  return state.Finish();
}

}  // namespace penstock
