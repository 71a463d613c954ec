#include "core/tensor/tensor.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/base/checked_size.h"

namespace penstock {

Shape::Shape(std::initializer_list<int64_t> dims)
    : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  PENSTOCK_CHECK_LE(rank_, kMaxRank);
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

int64_t Shape::num_elements() const {
  int64_t product = 1;
  for (int i = 0; i < rank_; ++i) product *= (*this)[i];
  return product;
}

std::string Shape::ToString() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) absl::StrAppend(&text, i == 0 ? "" : ", ", (*this)[i]);
  return text + "]";
}

bool operator==(const Shape& a, const Shape& b) {
  return a.rank_ == b.rank_ &&
         std::equal(a.dims_.begin(), a.dims_.begin() + a.rank_, b.dims_.begin());
}

absl::StatusOr<int64_t> TensorBytes(DataType type, const Shape& shape) {
  const DataTypeInfo info = Info(type);
  if (shape.rank() == 0 || shape[shape.rank() - 1] % info.block != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape ", shape.ToString(), " does not hold whole ", Abs(info.name),
                     " blocks of ", info.block, " elements along its last dimension"));
  }
  CheckedSize blocks(1);
  for (int i = 0; i < shape.rank(); ++i) {
    const int64_t dim = shape[i];
    blocks = blocks * CheckedSize(i == shape.rank() - 1 ? dim / info.block : dim);
  }
  const auto bytes = (blocks * CheckedSize(info.block_bytes)).value();
  if (!bytes || *bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape ", shape.ToString(), " of ", Abs(info.name), " is empty or too large"));
  }
  return *bytes;
}

absl::StatusOr<Tensor> Tensor::Make(DataType type, const Shape& shape, BaseAllocator& allocator) {
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(type, shape));
  PENSTOCK_ASSIGN_OR_RETURN(std::shared_ptr<void> owner, AllocateShared(allocator, bytes));
  void* data = owner.get();
  return Share(std::move(owner), data, type, shape, allocator.device());
}

Tensor Tensor::Borrow(void* data, DataType type, const Shape& shape, Device device) {
  return Share(nullptr, data, type, shape, device);
}

Tensor Tensor::Share(std::shared_ptr<void> owner, void* data, DataType type, const Shape& shape,
                     Device device) {
  Tensor tensor;
  tensor.data_ = data;
  tensor.type_ = type;
  tensor.device_ = device;
  tensor.shape_ = shape;
  tensor.owner_ = std::move(owner);
  tensor.SetDenseStrides();
  return tensor;
}

void Tensor::SetDenseStrides() {
  int64_t stride = 1;
  for (int i = shape_.rank() - 1; i >= 0; --i) {
    strides_[static_cast<size_t>(i)] = stride;
    stride *= shape_[i];
  }
}

int64_t Tensor::bytes() const {
  return num_elements() / Info(type_).block * Info(type_).block_bytes;
}

bool Tensor::is_contiguous() const {
  int64_t stride = 1;
  for (int i = shape_.rank() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[static_cast<size_t>(i)] != stride) return false;
    stride *= shape_[i];
  }
  return true;
}

Tensor Tensor::Slice(int64_t first, int64_t count) const {
  PENSTOCK_CHECK_GE(first, 0);
  PENSTOCK_CHECK_GE(count, 0);
  PENSTOCK_CHECK_LE(first + count, dim(0));
  PENSTOCK_CHECK_EQ(strides_[0] % Info(type_).block, 0);
  Tensor slice;
  slice.type_ = type_;
  slice.device_ = device_;
  slice.strides_ = strides_;
  slice.data_ = static_cast<uint8_t*>(data_) +
                first * strides_[0] / Info(type_).block * Info(type_).block_bytes;
  std::array<int64_t, Shape::kMaxRank> dims{};
  for (int i = 0; i < rank(); ++i) dims[static_cast<size_t>(i)] = dim(i);
  dims[0] = count;
  slice.shape_ = Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(rank())));
  return slice;
}

Tensor Tensor::Columns(int64_t first, int64_t count) const {
  PENSTOCK_CHECK_EQ(rank(), 2);
  PENSTOCK_CHECK_EQ(Info(type_).block, int64_t{1});
  PENSTOCK_CHECK_GE(first, 0);
  PENSTOCK_CHECK_GE(count, 0);
  PENSTOCK_CHECK_LE(first + count, dim(1));
  Tensor columns = Slice(0, dim(0));
  columns.data_ = static_cast<uint8_t*>(data_) + first * Info(type_).block_bytes;
  columns.shape_ = Shape({dim(0), count});
  return columns;
}

Tensor Tensor::Reshape(const Shape& shape) const {
  PENSTOCK_CHECK(is_contiguous());
  PENSTOCK_CHECK_EQ(shape.num_elements(), num_elements());
  return Share(owner_, data_, type_, shape, device_);
}

absl::Status MakeTogether(std::initializer_list<TensorPlan> plans, BaseAllocator& allocator) {
  constexpr int64_t kAlignment = 64;
  CheckedSize total(0);
  for (const TensorPlan& plan : plans) {
    PENSTOCK_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(plan.type, plan.shape));
    total = total + CheckedSize(bytes).RoundUp(kAlignment);
  }
  const int64_t total_bytes = total.value().value_or(INT64_MAX);
  PENSTOCK_ASSIGN_OR_RETURN(const std::shared_ptr<void> block,
                            AllocateShared(allocator, total_bytes));
  auto* place = static_cast<uint8_t*>(block.get());
  for (const TensorPlan& plan : plans) {
    *plan.tensor = Tensor::Share(block, place, plan.type, plan.shape, allocator.device());
    place += (plan.tensor->bytes() + kAlignment - 1) / kAlignment * kAlignment;
  }
  return absl::OkStatus();
}

}  // namespace penstock
