// WeightStream: the elements of a weight, read in parts by several threads. A weight that a file
// has in memory, one that is made as it is read, and rows of several behind each other look the
// same to who copies them elsewhere: none needs to be in memory as a whole.
// A value type. Reading one from several threads is safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "core/base/thread_pool.h"
#include "core/tensor/row_order.h"
#include "core/tensor/tensor.h"

namespace penstock {

class MmapFile;

struct WeightStream {
  // Elements [first, first + count) into `out`, as the type and the file have them. Any thread.
  // REQUIRES: within the shape, on bounds of the type's blocks.
  using Read = std::function<void(int64_t first, int64_t count, void* out)>;

  DataType type = DataType::kF32;
  Shape shape;
  Read read;
  RowOrder order;  // where the rows that are read belong
  Tensor tensor;   // all of it, where it is in memory already, with its rows in place; else empty

  // Of a dense tensor, which it keeps.
  static WeightStream Of(Tensor tensor);

  // Of a tensor that may lie in that file's mapping, or be a copy of a part of it.
  static WeightStream OfFile(std::shared_ptr<const MmapFile> file, Tensor tensor);

  // The tensor that there is, or a new one that `threads` have read, each row where it belongs;
  // null: the caller alone.
  // Errors: the allocator's.
  absl::StatusOr<Tensor> InMemory(BaseAllocator& allocator, ThreadPool* threads) const;
};

}  // namespace penstock
