#include "core/kernels/dequantize.h"

#include <algorithm>
#include <array>

#include "core/base/check.h"
#include "core/tensor/dequantize.h"

namespace penstock::cpu {
namespace {

constexpr int64_t kPieceElements = 8192;  // turned at once: whole blocks of any type

void Round(const float* values, int64_t count, DataType type, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = type == DataType::kF16 ? FloatToHalf(values[i]) : FloatToBFloat16(values[i]);
  }
}

}  // namespace

void Dequantize(ThreadPool& pool, const Tensor& stored, const Tensor& out) {
  const DataType type = out.type();
  PENSTOCK_CHECK(type == DataType::kF32 || type == DataType::kF16 || type == DataType::kBF16);
  PENSTOCK_CHECK(stored.is_contiguous() && out.is_contiguous());
  const int64_t count = out.num_elements();
  PENSTOCK_CHECK_EQ(stored.num_elements(), count);
  const DataTypeInfo from = Info(stored.type());
  const auto* bytes = static_cast<const uint8_t*>(stored.raw());
  auto* place = static_cast<uint8_t*>(const_cast<void*>(out.raw()));
  const int64_t pieces = (count + kPieceElements - 1) / kPieceElements;
  pool.ParallelFor(pieces, 8, [&](int64_t begin, int64_t end) {
    std::array<float, kPieceElements> values;
    for (int64_t first = begin * kPieceElements; first < std::min(end * kPieceElements, count);
         first += kPieceElements) {
      const int64_t size = std::min(kPieceElements, count - first);
      const uint8_t* const blocks = bytes + first / from.block * from.block_bytes;
      uint8_t* const to = place + first * Info(type).block_bytes;
      if (type == DataType::kF32) {
        penstock::Dequantize(stored.type(), blocks, size, reinterpret_cast<float*>(to));
      } else {
        penstock::Dequantize(stored.type(), blocks, size, values.data());
        Round(values.data(), size, type, reinterpret_cast<uint16_t*>(to));
      }
    }
  });
}

}  // namespace penstock::cpu
