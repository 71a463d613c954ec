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

void Dequantize(ThreadPool& pool, const Tensor& stored, int64_t first, const RowOrder& order,
                const Tensor& out) {
  const DataType type = out.type();
  PENSTOCK_CHECK(type == DataType::kF32 || type == DataType::kF16 || type == DataType::kBF16);
  PENSTOCK_CHECK(stored.is_contiguous() && out.is_contiguous());
  const int64_t count = stored.num_elements();
  PENSTOCK_CHECK(first >= 0 && first % 8 == 0 && count <= out.num_elements() - first);
  const int64_t columns = order.rows > 0 ? out.dim(1) : 1;
  const DataTypeInfo from = Info(stored.type());
  const auto* bytes = static_cast<const uint8_t*>(stored.raw());
  auto* place = static_cast<uint8_t*>(const_cast<void*>(out.raw()));
  const int64_t pieces = (count + kPieceElements - 1) / kPieceElements;
  pool.ParallelFor(pieces, 8, [&](int64_t begin, int64_t end) {
    std::array<float, kPieceElements> values;
    const int64_t last = std::min(end * kPieceElements, count);
    for (int64_t i = begin * kPieceElements; i < last;) {
      int64_t size = std::min(kPieceElements, last - i);
      int64_t to = first + i;
      if (const int64_t row = to / columns; row < order.rows) {
        size = std::min(size, (row + 1) * columns - to);
        to += (order.Place(row) - row) * columns;
      }
      const uint8_t* const blocks = bytes + i / from.block * from.block_bytes;
      uint8_t* const target = place + to * Info(type).block_bytes;
      if (type == DataType::kF32) {
        penstock::Dequantize(stored.type(), blocks, size, reinterpret_cast<float*>(target));
      } else {
        penstock::Dequantize(stored.type(), blocks, size, values.data());
        Round(values.data(), size, type, reinterpret_cast<uint16_t*>(target));
      }
      i += size;
    }
  });
}

}  // namespace penstock::cpu
