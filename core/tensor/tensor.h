// Tensor: element type, device, shape and strides over bytes that it owns (shared) or borrows.
// A value type: copies see the same bytes. Reading one from several threads is safe.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "core/base/status.h"
#include "core/tensor/allocator.h"
#include "core/tensor/data_type.h"

namespace penstock {

// A shape of at most six dimensions, outermost first.
class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(std::span<const int64_t> dims);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t num_elements() const;
  std::string ToString() const;  // "[3, 576]"
  friend bool operator==(const Shape& a, const Shape& b);

 private:
  int rank_ = 0;
  std::array<int64_t, kMaxRank> dims_{};
};

class Tensor {
 public:
  Tensor() = default;

  // New uncleared bytes. Errors: INVALID_ARGUMENT for a shape that is empty, negative or too
  // large, or whose innermost dimension is no multiple of the type's block; the allocator's.
  static absl::StatusOr<Tensor> Make(DataType type, const Shape& shape, BaseAllocator& allocator);
  // A view of bytes that the caller keeps alive.
  static Tensor Borrow(void* data, DataType type, const Shape& shape, Device device = Device::kCpu);
  // A view that keeps `owner` alive.
  static Tensor Share(std::shared_ptr<void> owner, void* data, DataType type, const Shape& shape,
                      Device device = Device::kCpu);

  bool empty() const { return data_ == nullptr; }
  DataType type() const { return type_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t num_elements() const { return shape_.num_elements(); }
  int64_t bytes() const;
  // Elements from one index to the next along dimension i. Tensors made here are dense; a slice
  // of columns is not.
  int64_t stride(int i) const { return strides_[static_cast<size_t>(i)]; }
  bool is_contiguous() const;

  void* raw() { return data_; }
  const void* raw() const { return data_; }

  // Elements [first, first + count) of dimension 0. Borrows: the bytes' owner must stay.
  // REQUIRES: inside the bounds.
  Tensor Slice(int64_t first, int64_t count) const;
  // Columns [first, first + count) of a matrix: rows keep their stride. Borrows.
  // REQUIRES: rank 2, a plain element type, inside the bounds.
  Tensor Columns(int64_t first, int64_t count) const;
  // The same elements in another shape. REQUIRES: contiguous, the same number of elements.
  Tensor Reshape(const Shape& shape) const;

 private:
  void SetDenseStrides();

  void* data_ = nullptr;
  DataType type_ = DataType::kF32;
  Device device_ = Device::kCpu;
  Shape shape_;
  std::array<int64_t, Shape::kMaxRank> strides_{};
  std::shared_ptr<void> owner_;
};

// Makes tensors behind each other in one block of the allocator, each at a multiple of 64 bytes:
// what is made together can be copied at once. Errors as Tensor::Make.
struct TensorPlan {
  Tensor* tensor;
  DataType type;
  Shape shape;
};
absl::Status MakeTogether(std::initializer_list<TensorPlan> plans, BaseAllocator& allocator);

// Bytes of a dense tensor. Errors as Tensor::Make.
absl::StatusOr<int64_t> TensorBytes(DataType type, const Shape& shape);

}  // namespace penstock
