// TensorWrapper<T>: a typed view of a tensor. The element type is checked once, when it is made;
// after that data() is a T*. It borrows: the tensor's bytes must stay alive.
#pragma once

#include <type_traits>

#include "core/base/check.h"
#include "core/tensor/tensor.h"

namespace penstock {

template <typename T>
class TensorWrapper {
 public:
  using Element = std::remove_const_t<T>;

  // REQUIRES: tensor holds elements of T, on the host side of whoever reads them.
  explicit TensorWrapper(const Tensor& tensor)
      : data_(static_cast<T*>(const_cast<void*>(tensor.raw()))), tensor_(&tensor) {
    PENSTOCK_CHECK_EQ(Name(tensor.type()), Name(DataTypeOf<Element>()));
  }

  T* data() const { return data_; }
  // Row i of dimension 0.
  T* row(int64_t i) const { return data_ + i * tensor_->stride(0); }
  T& operator[](int64_t i) const { return data_[i]; }
  int64_t dim(int i) const { return tensor_->dim(i); }
  const Shape& shape() const { return tensor_->shape(); }

 private:
  T* data_;
  const Tensor* tensor_;
};

}  // namespace penstock
