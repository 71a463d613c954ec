// The vector version of linear, compiled once for each instruction set by Highway.
#include <algorithm>
#include <bit>
#include <vector>

#include "core/base/check.h"
#include "core/kernels/linear.h"
#include "core/tensor/dequantize.h"
#include "core/tensor/tensor_wrapper.h"

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

constexpr int64_t kRows = 4;    // weight rows in scratch at a time
constexpr int64_t kTokens = 3;  // tokens a pass over them: 3 x 4 x 2 sums fill AVX-512's registers
constexpr int64_t kCachedFloats = 96 * 1024;  // of x: tokens that meet all rows before the next do

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

void DequantizeQ4_1(const BlockQ4_1* blocks, int64_t count, float* HWY_RESTRICT out) {
  const hn::Rebind<uint8_t, Floats> bytes;
  const hn::Rebind<int32_t, Floats> ints;
  const auto lanes = static_cast<int64_t>(hn::Lanes(kFloats));
  for (int64_t b = 0; b < count / 32; ++b) {
    const Vector scale = Broadcast(&blocks[b].scale);
    const Vector minimum = Broadcast(&blocks[b].minimum);
    for (int64_t i = 0; i < 16; i += lanes) {
      const auto pairs = hn::LoadU(bytes, blocks[b].quants + i);
      const auto wide = hn::PromoteTo(ints, pairs);
      const auto low = hn::ConvertTo(kFloats, hn::And(wide, hn::Set(ints, 15)));
      const auto high = hn::ConvertTo(kFloats, hn::ShiftRight<4>(wide));
      hn::StoreU(hn::MulAdd(scale, low, minimum), kFloats, out + b * 32 + i);
      hn::StoreU(hn::MulAdd(scale, high, minimum), kFloats, out + b * 32 + 16 + i);
    }
  }
}

void DequantizeQ8_0(const BlockQ8_0* blocks, int64_t count, float* HWY_RESTRICT out) {
  const hn::Rebind<int8_t, Floats> bytes;
  const hn::Rebind<int32_t, Floats> ints;
  const auto lanes = static_cast<int64_t>(hn::Lanes(kFloats));
  for (int64_t b = 0; b < count / 32; ++b) {
    const Vector scale = Broadcast(&blocks[b].scale);
    for (int64_t i = 0; i < 32; i += lanes) {
      const auto wide = hn::PromoteTo(ints, hn::LoadU(bytes, blocks[b].quants + i));
      hn::StoreU(hn::Mul(scale, hn::ConvertTo(kFloats, wide)), kFloats, out + b * 32 + i);
    }
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

// One weight row as float32: in place if it is that already, else in `scratch`.
const float* RowAsFloats(const Tensor& weight, int64_t n, float* scratch) {
  const void* row = static_cast<const uint8_t*>(weight.raw()) +
                    n * weight.dim(1) / Info(weight.type()).block * Info(weight.type()).block_bytes;
  switch (weight.type()) {
    case DataType::kF32:
      return static_cast<const float*>(row);
    case DataType::kF16:
      DequantizeF16(static_cast<const uint16_t*>(row), weight.dim(1), scratch);
      return scratch;
    case DataType::kBF16:
      DequantizeBF16(static_cast<const uint16_t*>(row), weight.dim(1), scratch);
      return scratch;
    case DataType::kQ4_1:
      DequantizeQ4_1(static_cast<const BlockQ4_1*>(row), weight.dim(1), scratch);
      return scratch;
    case DataType::kQ8_0:
      DequantizeQ8_0(static_cast<const BlockQ8_0*>(row), weight.dim(1), scratch);
      return scratch;
    default:
      Dequantize(weight.type(), row, weight.dim(1), scratch);
      return scratch;
  }
}

// sums[t][r] += x[t] * w[r] for the vector at k.
template <int64_t kT, int64_t kR>
HWY_INLINE void AddProducts(const float* const* x, const float* const* w, int64_t k, Vector* sums) {
  Vector weights[kR];
  for (int64_t r = 0; r < kR; ++r) weights[r] = hn::LoadU(kFloats, w[r] + k);
  for (int64_t t = 0; t < kT; ++t) {
    const Vector token = hn::LoadU(kFloats, x[t] + k);
    for (int64_t r = 0; r < kR; ++r) {
      sums[t * kR + r] = hn::MulAdd(token, weights[r], sums[t * kR + r]);
    }
  }
}

// out[t][r] = dot(x[t], w[r]) for kT tokens and kR rows of `features` elements. Each has two sums,
// of the even and of the odd vectors of its row, so that its adds do not wait for each other.
template <int64_t kT, int64_t kR>
HWY_INLINE void DotTile(const float* const* x, const float* const* w, int64_t features,
                        float* const* out) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(kFloats));
  Vector even[kT * kR];
  Vector odd[kT * kR];
  for (int64_t i = 0; i < kT * kR; ++i) even[i] = odd[i] = hn::Zero(kFloats);
  int64_t k = 0;
  for (; k + 2 * lanes <= features; k += 2 * lanes) {
    // One half after the other, so that the weights of one and all sums fit into the registers.
    AddProducts<kT, kR>(x, w, k, even);
    AddProducts<kT, kR>(x, w, k + lanes, odd);
  }
  for (int64_t t = 0; t < kT; ++t) {
    for (int64_t r = 0; r < kR; ++r) {
      float sum = hn::GetLane(hn::SumOfLanes(kFloats, hn::Add(even[t * kR + r], odd[t * kR + r])));
      for (int64_t tail = k; tail < features; ++tail) sum += x[t][tail] * w[r][tail];
      out[t][r] = sum;
    }
  }
}

template <int64_t kT>
HWY_INLINE void DotRows(const float* const* x, const float* const* w, int64_t rows,
                        int64_t features, float* const* out) {
  if (rows == kRows) {
    DotTile<kT, kRows>(x, w, features, out);
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* place[kT];
    for (int64_t t = 0; t < kT; ++t) place[t] = out[t] + r;
    DotTile<kT, 1>(x, w + r, features, place);
  }
}

// out[t][n + r] for the tokens [first, last) and `rows` weight rows.
void LinearTile(const Tensor& x, const float* const* w, int64_t n, int64_t rows, int64_t first,
                int64_t last, const Tensor& out) {
  const TensorWrapper<const float> in(x);
  const TensorWrapper<float> result(out);
  for (int64_t t = first; t < last; t += kTokens) {
    const int64_t tokens = std::min(kTokens, last - t);
    const float* token[kTokens];
    float* place[kTokens];
    for (int64_t i = 0; i < tokens; ++i) {
      token[i] = in.row(t + i);
      place[i] = result.row(t + i) + n;
    }
    switch (tokens) {
      case 1:
        DotRows<1>(token, w, rows, x.dim(1), place);
        break;
      case 2:
        DotRows<2>(token, w, rows, x.dim(1), place);
        break;
      default:
        DotRows<kTokens>(token, w, rows, x.dim(1), place);
    }
  }
}

void LinearRows(const Tensor& x, const Tensor& weight, const Tensor& out, int64_t begin,
                int64_t end) {
  static thread_local std::vector<float> scratch;  // grows once, to the widest layer
  const int64_t features = x.dim(1);
  const int64_t num_tokens = x.dim(0);
  if (static_cast<int64_t>(scratch.size()) < kRows * features) {
    scratch.resize(static_cast<size_t>(kRows * features));
  }
  const int64_t cached = std::max(kTokens, kCachedFloats / features / kTokens * kTokens);
  for (int64_t first = 0; first < num_tokens; first += cached) {
    const int64_t last = std::min(num_tokens, first + cached);
    for (int64_t n = begin; n < end; n += kRows) {
      const int64_t rows = std::min(kRows, end - n);
      const float* w[kRows];
      for (int64_t r = 0; r < rows; ++r) {
        w[r] = RowAsFloats(weight, n + r, scratch.data() + r * features);
      }
      LinearTile(x, w, n, rows, first, last, out);
    }
  }
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock::cpu {

HWY_EXPORT(LinearRows);

void Linear(ThreadPool& pool, const Tensor& x, const Tensor& weight, const Tensor& out) {
  PENSTOCK_CHECK_EQ(weight.dim(1), x.dim(1));
  PENSTOCK_CHECK_EQ(out.dim(0), x.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(1), weight.dim(0));
  PENSTOCK_CHECK(weight.is_contiguous());
  // Chunks of rows that are whole tiles and large enough to be worth claiming.
  const int64_t share = weight.dim(0) / (8 * pool.num_threads());
  const int64_t grain = std::max<int64_t>(16, share / 4 * 4);
  pool.ParallelFor(weight.dim(0), grain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(LinearRows)(x, weight, out, begin, end);
  });
}

}  // namespace penstock::cpu
#endif  // HWY_ONCE
