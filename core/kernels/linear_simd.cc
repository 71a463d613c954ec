// The vector version of linear, compiled once for each instruction set by Highway.
#include <algorithm>
#include <bit>
#include <type_traits>
#include <vector>

#include "core/base/check.h"
#include "core/kernels/linear.h"
#include "core/tensor/dequantize.h"
#include "core/tensor/tensor_wrapper.h"
#include "hwy/cache_control.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/linear_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Sixteen lanes at most: half a block, so that every width walks a block in whole vectors.
using Floats = hn::CappedTag<float, 16>;
using Vector = hn::Vec<Floats>;
constexpr Floats kFloats;

// Products that a pass adds up at a time: with two sums each they leave room in the registers.
constexpr int64_t kSums = HWY_TARGET <= HWY_AVX3 ? 8 : 4;
constexpr int64_t kTokens = kSums;        // a pass
constexpr int64_t kPrefetchBytes = 1024;  // ahead of the weights at hand
constexpr int64_t kRows = 16;             // weight rows in scratch at a time

// As many as `d` has lanes. Exact for every value, as HalfToFloat is, and the same on every
// instruction set.
template <class D>
HWY_INLINE hn::Vec<D> FromHalves(D d, const uint16_t* halves) {
  const auto loaded = hn::LoadU(hn::Rebind<uint16_t, D>(), halves);
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, D>(), loaded));
#else
  const hn::RebindToUnsigned<D> words;
  const auto half = hn::PromoteTo(words, loaded);
  const auto sign = hn::ShiftLeft<16>(hn::And(half, hn::Set(words, 0x8000)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(half, hn::Set(words, 0x7fff)));
  // The exponent's bias differs by 112; a multiplication makes subnormals right as well.
  const auto value = hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112f));
  const auto special = hn::BitCast(d, hn::Or(magnitude, hn::Set(words, 0x70000000)));  // or NaN
  const auto is_special = hn::RebindMask(d, hn::Gt(magnitude, hn::Set(words, 0x0f7fffff)));
  return hn::Or(hn::IfThenElse(is_special, special, value), hn::BitCast(d, sign));
#endif
}

// One half of a block's head in every lane. Reads eight bytes, which every block has from there on.
HWY_INLINE Vector Broadcast(const uint16_t* half) {
  return hn::Set(kFloats, hn::GetLane(FromHalves(hn::CappedTag<float, 4>(), half)));
}

// A block's 32 elements, in their order.
constexpr int64_t kBlock = 32;
constexpr int64_t kBlockVectors = kBlock / static_cast<int64_t>(hn::MaxLanes(kFloats));

// Arrays of vectors are registers if the loops over them are unrolled, also before a sanitizer
// looks for memory to watch: hence the pragmas, here and in DotTile.

HWY_INLINE void Unpack(const BlockQ4_1& block, Vector* out) {
  const hn::Rebind<uint8_t, Floats> bytes;
  const hn::Rebind<int32_t, Floats> ints;
  const auto lanes = static_cast<int64_t>(hn::Lanes(kFloats));
  const Vector scale = Broadcast(&block.scale);
  const Vector minimum = Broadcast(&block.minimum);
#pragma GCC unroll 16
  for (int64_t i = 0; i < kBlockVectors / 2; ++i) {
    const auto wide = hn::PromoteTo(ints, hn::LoadU(bytes, block.quants + i * lanes));
    const auto low = hn::ConvertTo(kFloats, hn::And(wide, hn::Set(ints, 15)));
    const auto high = hn::ConvertTo(kFloats, hn::ShiftRight<4>(wide));
    out[i] = hn::MulAdd(scale, low, minimum);
    out[i + kBlockVectors / 2] = hn::MulAdd(scale, high, minimum);
  }
}

HWY_INLINE void Unpack(const BlockQ8_0& block, Vector* out) {
  const hn::Rebind<int8_t, Floats> bytes;
  const hn::Rebind<int32_t, Floats> ints;
  const auto lanes = static_cast<int64_t>(hn::Lanes(kFloats));
  const Vector scale = Broadcast(&block.scale);
#pragma GCC unroll 16
  for (int64_t i = 0; i < kBlockVectors; ++i) {
    const auto wide = hn::PromoteTo(ints, hn::LoadU(bytes, block.quants + i * lanes));
    out[i] = hn::Mul(scale, hn::ConvertTo(kFloats, wide));
  }
}

void DequantizeF16(const uint16_t* halves, int64_t count, float* HWY_RESTRICT out) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(kFloats));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(FromHalves(kFloats, halves + i), kFloats, out + i);
  }
  for (; i < count; ++i) out[i] = HalfToFloat(halves[i]);
}

void DequantizeBF16(const uint16_t* halves, int64_t count, float* HWY_RESTRICT out) {
  const hn::Rebind<uint16_t, Floats> shorts;
  const hn::RebindToUnsigned<Floats> words;
  const auto lanes = static_cast<int64_t>(hn::Lanes(kFloats));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto wide = hn::PromoteTo(words, hn::LoadU(shorts, halves + i));
    hn::StoreU(hn::BitCast(kFloats, hn::ShiftLeft<16>(wide)), kFloats, out + i);
  }
  for (; i < count; ++i) out[i] = std::bit_cast<float>(uint32_t{halves[i]} << 16);
}

int64_t RowBytes(const Tensor& weight) {
  return weight.dim(1) / Info(weight.type()).block * Info(weight.type()).block_bytes;
}

void RowToFloats(const Tensor& weight, int64_t n, float* out) {
  const void* row = static_cast<const uint8_t*>(weight.raw()) + n * RowBytes(weight);
  switch (weight.type()) {
    case DataType::kF16:
      return DequantizeF16(static_cast<const uint16_t*>(row), weight.dim(1), out);
    case DataType::kBF16:
      return DequantizeBF16(static_cast<const uint16_t*>(row), weight.dim(1), out);
    default:
      return Dequantize(weight.type(), row, weight.dim(1), out);
  }
}

// 32 elements of a row that is float32 already.
struct BlockF32 {
  float values[kBlock];
};

HWY_INLINE void Unpack(const BlockF32& block, Vector* out) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < kBlockVectors; ++i) {
    out[i] = hn::LoadU(kFloats, block.values + i * static_cast<int64_t>(hn::Lanes(kFloats)));
  }
}

// out[t][r] = dot(x[t], w[r]) for kT tokens and kR rows of `features` elements. Weights are
// unpacked into registers, with no way through memory. Each product has two sums, of the even and
// of the odd vectors of its row, so that its adds do not wait for each other; their order depends
// on nothing but `features`. `adds`: out += dot.
template <int64_t kT, int64_t kR, typename Block>
HWY_INLINE void DotTile(const float* const* x, const Block* const* w, int64_t features,
                        float* const* out, bool adds) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(kFloats));
  Vector even[kT * kR];
  Vector odd[kT * kR];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kT * kR; ++i) even[i] = odd[i] = hn::Zero(kFloats);
  const int64_t blocks = features / kBlock;
  for (int64_t b = 0; b < blocks; ++b) {
#pragma GCC unroll 16
    for (int64_t r = 0; r < kR; ++r) {
      Vector weights[kBlockVectors];
      hwy::Prefetch(reinterpret_cast<const uint8_t*>(w[r] + b) + kPrefetchBytes);
      Unpack(w[r][b], weights);
#pragma GCC unroll 16
      for (int64_t t = 0; t < kT; ++t) {
        const float* token = x[t] + b * kBlock;
#pragma GCC unroll 16
        for (int64_t i = 0; i < kBlockVectors; ++i) {
          Vector& sum = (i % 2 == 0 ? even : odd)[t * kR + r];
          sum = hn::MulAdd(hn::LoadU(kFloats, token + i * lanes), weights[i], sum);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int64_t r = 0; r < kR; ++r) {
      float sum = hn::GetLane(hn::SumOfLanes(kFloats, hn::Add(even[t * kR + r], odd[t * kR + r])));
      if constexpr (std::is_same_v<Block, BlockF32>) {
        for (int64_t i = blocks * kBlock; i < features; ++i) {
          sum += x[t][i] * reinterpret_cast<const float*>(w[r])[i];
        }
      }
      if (adds) sum += out[t][r];
      out[t][r] = sum;
    }
  }
}

// out[t][0, rows) for kT tokens and rows that lie one after the other, `row_bytes` long.
template <int64_t kT, typename Block>
void DotRows(const float* const* x, const Block* w, int64_t row_bytes, int64_t rows,
             int64_t features, float* const* out, bool adds) {
  constexpr int64_t kR = std::max<int64_t>(1, std::min<int64_t>(4, kSums / kT));
  float* place[kT];
  std::copy(out, out + kT, place);
  const Block* row[kR];
  const auto next = [&](int64_t count) {
    for (float*& at : place) at += count;
  };
  const auto* at = reinterpret_cast<const uint8_t*>(w);
  int64_t n = 0;
  for (; n + kR <= rows; n += kR, next(kR)) {
    for (int64_t r = 0; r < kR; ++r) {
      row[r] = reinterpret_cast<const Block*>(at + (n + r) * row_bytes);
    }
    DotTile<kT, kR>(x, row, features, place, adds);
  }
  for (; n < rows; ++n, next(1)) {
    row[0] = reinterpret_cast<const Block*>(at + n * row_bytes);
    DotTile<kT, 1>(x, row, features, place, adds);
  }
}

// The same for as many tokens as there are from `first` on, kTokens at most.
template <typename Block, int64_t kT = kTokens>
void DotTokens(const Tensor& x, int64_t first, const Block* w, int64_t row_bytes, int64_t n,
               int64_t rows, const Tensor& out, bool adds) {
  if constexpr (kT > 1) {
    if (x.dim(0) - first < kT) {
      return DotTokens<Block, kT - 1>(x, first, w, row_bytes, n, rows, out, adds);
    }
  }
  const TensorWrapper<const float> in(x);
  const TensorWrapper<float> result(out);
  const float* token[kT];
  float* place[kT];
  for (int64_t t = 0; t < kT; ++t) {
    token[t] = in.row(first + t);
    place[t] = result.row(first + t) + n;
  }
  DotRows<kT>(token, w, row_bytes, rows, x.dim(1), place, adds);
}

// Weights that are unpacked for each pass over them: a few tokens, which stay in the nearest cache,
// meet all rows before the next tokens do.
template <typename Block>
void UnpackedRows(const Tensor& x, const Tensor& weight, const Tensor& out, bool adds,
                  int64_t begin, int64_t end) {
  const int64_t row_bytes = RowBytes(weight);
  const auto* w = static_cast<const uint8_t*>(weight.raw()) + begin * row_bytes;
  for (int64_t first = 0; first < x.dim(0); first += kTokens) {
    DotTokens(x, first, reinterpret_cast<const Block*>(w), row_bytes, begin, end - begin, out,
              adds);
  }
}

// Weights whose unpacking is dear: some rows are unpacked once for all tokens.
void ScratchRows(const Tensor& x, const Tensor& weight, const Tensor& out, bool adds, int64_t begin,
                 int64_t end) {
  static thread_local std::vector<float> scratch;  // grows once, to the widest layer
  const int64_t features = x.dim(1);
  if (static_cast<int64_t>(scratch.size()) < kRows * features) {
    scratch.resize(static_cast<size_t>(kRows * features));
  }
  for (int64_t n = begin; n < end; n += kRows) {
    const int64_t rows = std::min(kRows, end - n);
    for (int64_t r = 0; r < rows; ++r) RowToFloats(weight, n + r, scratch.data() + r * features);
    for (int64_t first = 0; first < x.dim(0); first += kTokens) {
      DotTokens(x, first, reinterpret_cast<const BlockF32*>(scratch.data()),
                features * static_cast<int64_t>(sizeof(float)), n, rows, out, adds);
    }
  }
}

void LinearRows(const Tensor& x, const Tensor& weight, const Tensor& out, bool adds, int64_t begin,
                int64_t end) {
  switch (weight.type()) {
    case DataType::kF32:
      return UnpackedRows<BlockF32>(x, weight, out, adds, begin, end);
    case DataType::kQ4_1:
      return UnpackedRows<BlockQ4_1>(x, weight, out, adds, begin, end);
    case DataType::kQ8_0:
      return UnpackedRows<BlockQ8_0>(x, weight, out, adds, begin, end);
    default:
      return ScratchRows(x, weight, out, adds, begin, end);
  }
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock::cpu {

HWY_EXPORT(LinearRows);

namespace {

void Multiply(ThreadPool& pool, const Tensor& x, const Tensor& weight, const Tensor& out,
              bool adds) {
  PENSTOCK_CHECK_EQ(weight.dim(1), x.dim(1));
  PENSTOCK_CHECK_EQ(out.dim(0), x.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(1), weight.dim(0));
  PENSTOCK_CHECK(weight.is_contiguous());
  // Chunks of rows that are whole tiles and large enough to be worth claiming.
  const int64_t share = weight.dim(0) / (8 * pool.num_threads());
  const int64_t grain = std::max<int64_t>(16, share / 4 * 4);
  pool.ParallelFor(weight.dim(0), grain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(LinearRows)(x, weight, out, adds, begin, end);
  });
}

}  // namespace

void Linear(ThreadPool& pool, const Tensor& x, const Tensor& weight, const Tensor& out) {
  Multiply(pool, x, weight, out, false);
}

void LinearAdd(ThreadPool& pool, const Tensor& x, const Tensor& weight, const Tensor& out) {
  Multiply(pool, x, weight, out, true);
}

}  // namespace penstock::cpu
#endif  // HWY_ONCE
