// Compiled once for each instruction set by Highway.
#include "core/io/dummy_values.h"

#include <algorithm>

#include "core/base/philox.h"
#include "core/tensor/data_type.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/io/dummy_values.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

namespace hn = hwy::HWY_NAMESPACE;

using D64 = hn::ScalableTag<uint64_t>;
using D32 = hn::Repartition<uint32_t, D64>;
using Vec64 = hn::Vec<D64>;

// Key of each of Philox's rounds.
struct Keys {
  explicit Keys(uint64_t key) {
    for (uint32_t round = 0; round < 10; ++round) {
      low[round] = static_cast<uint32_t>(key) + round * 0x9E3779B9;
      high[round] = static_cast<uint32_t>(key >> 32) + round * 0xBB67AE85;
    }
  }
  uint64_t low[10];
  uint64_t high[10];
};

// One Philox block a 64-bit lane, whose lower half holds the word: the product of the lower halves
// is one instruction, and what is left in the upper halves is never read.
HWY_INLINE Vec64 Product(D64 d, Vec64 a, Vec64 b) {
  const D32 halves;
  return hn::BitCast(d, hn::MulEven(hn::BitCast(halves, a), hn::BitCast(halves, b)));
}

HWY_INLINE void Round(D64 d, Vec64 low, Vec64 high, Vec64& w0, Vec64& w1, Vec64& w2, Vec64& w3) {
  const Vec64 a = Product(d, w0, hn::Set(d, uint64_t{0xD2511F53}));
  const Vec64 b = Product(d, w2, hn::Set(d, uint64_t{0xCD9E8D57}));
  w0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(b), w1), low);
  w1 = b;
  w2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(a), w3), high);
  w3 = a;
}

// Two words of each block as values, the first in the lower half of a lane.
HWY_INLINE hn::Vec<hn::RebindToFloat<D32>> Values(D64 d, Vec64 lower, Vec64 upper, float bound) {
  const hn::RebindToFloat<D32> floats;
  const hn::RebindToSigned<D32> integers;
  const Vec64 mask = hn::Set(d, uint64_t{0xffffffff});
  const Vec64 pair = hn::Or(hn::And(lower, mask), hn::ShiftLeft<32>(upper));
  const auto top = hn::ShiftRight<8>(hn::BitCast(D32(), pair));
  const auto number = hn::ConvertTo(floats, hn::BitCast(integers, top));
  // Exact up to here, so that a fused product would change nothing.
  const auto unit = hn::Sub(hn::Mul(number, hn::Set(floats, 0x1p-23f)), hn::Set(floats, 1.0f));
  return hn::Mul(unit, hn::Set(floats, bound));
}

// Rounded to the nearest, ties to even, both in the lower half of a lane. No value is NaN.
template <class V>
HWY_INLINE Vec64 RoundPair(D64 d, V values) {
  const D32 words;
  const auto bits = hn::BitCast(words, values);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(words, 0x7fffu)), odd));
  const Vec64 pair = hn::BitCast(d, rounded);
  return hn::And(hn::Or(pair, hn::ShiftRight<16>(pair)), hn::Set(d, uint64_t{0xffffffff}));
}

HWY_INLINE void StoreBlocks(D64 d, Vec64 w0, Vec64 w1, Vec64 w2, Vec64 w3, float bound,
                            float* out) {
  hn::StoreInterleaved2(hn::BitCast(d, Values(d, w0, w1, bound)),
                        hn::BitCast(d, Values(d, w2, w3, bound)), d,
                        reinterpret_cast<uint64_t*>(out));
}

HWY_INLINE void StoreBlocks(D64 d, Vec64 w0, Vec64 w1, Vec64 w2, Vec64 w3, float bound,
                            uint16_t* out) {
  const Vec64 lower = RoundPair(d, Values(d, w0, w1, bound));
  const Vec64 upper = RoundPair(d, Values(d, w2, w3, bound));
  hn::StoreU(hn::Or(lower, hn::ShiftLeft<32>(upper)), d, reinterpret_cast<uint64_t*>(out));
}

// Whole vectors of blocks from `block` on, two at a time, which hides the latency of products; how
// many blocks that has made.
template <typename T>
HWY_INLINE int64_t MakeBlocks(uint64_t key, float bound, int64_t block, int64_t count, T* out) {
  const D64 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Keys keys(key);
  int64_t done = 0;
  for (; done + 2 * lanes <= count; done += 2 * lanes) {
    const auto first = static_cast<uint64_t>(block + done);
    Vec64 a0 = hn::Iota(d, first);
    Vec64 b0 = hn::Iota(d, first + static_cast<uint64_t>(lanes));
    Vec64 a1 = hn::ShiftRight<32>(a0);
    Vec64 b1 = hn::ShiftRight<32>(b0);
    Vec64 a2 = hn::Zero(d);
    Vec64 b2 = a2;
    Vec64 a3 = a2;
    Vec64 b3 = a2;
    for (int round = 0; round < 10; ++round) {
      const Vec64 low = hn::Set(d, keys.low[round]);
      const Vec64 high = hn::Set(d, keys.high[round]);
      Round(d, low, high, a0, a1, a2, a3);
      Round(d, low, high, b0, b1, b2, b3);
    }
    StoreBlocks(d, a0, a1, a2, a3, bound, out + 4 * done);
    StoreBlocks(d, b0, b1, b2, b3, bound, out + 4 * (done + lanes));
  }
  return done;
}

int64_t MakeFloats(uint64_t key, float bound, int64_t block, int64_t count, float* out) {
  return MakeBlocks(key, bound, block, count, out);
}
int64_t MakeHalves(uint64_t key, float bound, int64_t block, int64_t count, uint16_t* out) {
  return MakeBlocks(key, bound, block, count, out);
}

#else  // without vectors the plain version makes all

int64_t MakeFloats(uint64_t, float, int64_t, int64_t, float*) { return 0; }
int64_t MakeHalves(uint64_t, float, int64_t, int64_t, uint16_t*) { return 0; }

#endif

}  // namespace penstock::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock {

HWY_EXPORT(MakeFloats);
HWY_EXPORT(MakeHalves);

namespace {

void Put(float value, float* out) { *out = value; }
void Put(float value, uint16_t* out) { *out = FloatToBFloat16(value); }

int64_t Make(uint64_t key, float bound, int64_t block, int64_t count, float* out) {
  return HWY_DYNAMIC_DISPATCH(MakeFloats)(key, bound, block, count, out);
}
int64_t Make(uint64_t key, float bound, int64_t block, int64_t count, uint16_t* out) {
  return HWY_DYNAMIC_DISPATCH(MakeHalves)(key, bound, block, count, out);
}

template <typename T>
void Fill(uint64_t key, float bound, int64_t first, int64_t count, T* out) {
  const int64_t last = first + count;
  int64_t i = first;
  for (; i < last && i % 4 != 0; ++i) Put(DummyValue(key, bound, i), out + (i - first));
  i += 4 * Make(key, bound, i / 4, (last - i) / 4, out + (i - first));
  for (; i < last; ++i) Put(DummyValue(key, bound, i), out + (i - first));
}

}  // namespace

float DummyValue(uint64_t key, float bound, int64_t i) {
  const auto block = static_cast<uint64_t>(i / 4);
  const PhiloxWords words =
      Philox({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0}, key);
  const float unit = static_cast<float>(words[static_cast<size_t>(i % 4)] >> 8) * 0x1p-24f;
  return bound * (2.0f * unit - 1.0f);
}

void DummyValues(uint64_t key, float bound, int64_t first, int64_t count, float* out) {
  Fill(key, bound, first, count, out);
}
void DummyValues(uint64_t key, float bound, int64_t first, int64_t count, uint16_t* out) {
  Fill(key, bound, first, count, out);
}

}  // namespace penstock
#endif  // HWY_ONCE
