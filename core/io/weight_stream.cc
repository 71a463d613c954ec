#include "core/io/weight_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/check.h"
#include "core/io/mmap_file.h"

namespace penstock {
namespace {

constexpr int64_t kPieceElements = 65536;  // that a thread reads at once: whole blocks of any type

// The stream's read, of rows where they belong.
void ReadInPlace(const WeightStream& stream, int64_t first, int64_t count, uint8_t* out) {
  const DataTypeInfo info = Info(stream.type);
  const int64_t last = first + count;
  while (first < last && stream.order.rows > 0) {
    const int64_t columns = stream.shape[1];
    const int64_t row = first / columns;
    if (row >= stream.order.rows) break;
    const int64_t part = std::min((row + 1) * columns, last) - first;
    stream.read(first + (stream.order.Origin(row) - row) * columns, part, out);
    first += part;
    out += part / info.block * info.block_bytes;
  }
  if (first < last) stream.read(first, last - first, out);
}

}  // namespace

WeightStream WeightStream::Of(Tensor tensor) {
  PENSTOCK_CHECK(tensor.is_contiguous());
  WeightStream stream;
  stream.type = tensor.type();
  stream.shape = tensor.shape();
  stream.read = [info = Info(tensor.type()), data = static_cast<const uint8_t*>(tensor.raw())](
                    int64_t first, int64_t count, void* out) {
    std::memcpy(out, data + first / info.block * info.block_bytes,
                static_cast<size_t>(count / info.block * info.block_bytes));
  };
  stream.tensor = std::move(tensor);
  return stream;
}

WeightStream WeightStream::OfFile(std::shared_ptr<const MmapFile> file, Tensor tensor) {
  WeightStream stream = Of(std::move(tensor));
  const auto* data = static_cast<const uint8_t*>(std::as_const(stream.tensor).raw());
  if (!file->Contains(data)) return stream;
  stream.read = [info = Info(stream.type), data, file = std::move(file)](int64_t first,
                                                                         int64_t count, void* out) {
    file->Copy(data + first / info.block * info.block_bytes, count / info.block * info.block_bytes,
               out);
  };
  return stream;
}

absl::StatusOr<Tensor> WeightStream::InMemory(BaseAllocator& allocator, ThreadPool* threads) const {
  if (!tensor.empty()) return tensor;
  PENSTOCK_ASSIGN_OR_RETURN(Tensor whole, Tensor::Make(type, shape, allocator));
  const DataTypeInfo info = Info(type);
  auto* data = static_cast<uint8_t*>(whole.raw());
  const int64_t elements = shape.num_elements();
  if (threads == nullptr) {
    ReadInPlace(*this, 0, elements, data);
    return whole;
  }
  const int64_t pieces = (elements + kPieceElements - 1) / kPieceElements;
  threads->ParallelFor(pieces, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kPieceElements;
    ReadInPlace(*this, first, std::min(end * kPieceElements, elements) - first,
                data + first / info.block * info.block_bytes);
  });
  return whole;
}

}  // namespace penstock
