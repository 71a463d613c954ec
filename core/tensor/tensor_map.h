// TensorMap: tensors of many element types under names, for weights and for what enters and
// leaves a stage. Never looked up inside the layer loop. Not thread-safe.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/tensor/tensor.h"

namespace penstock {

class TensorMap {
 public:
  // Errors: ALREADY_EXISTS.
  absl::Status Insert(std::string name, Tensor tensor);
  // Errors: NOT_FOUND, with the name.
  absl::StatusOr<Tensor> Get(std::string_view name) const;
  bool Contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  int64_t size() const { return static_cast<int64_t>(tensors_.size()); }
  int64_t bytes() const;

  // In the order of the names.
  auto begin() const { return tensors_.begin(); }
  auto end() const { return tensors_.end(); }

 private:
  std::map<std::string, Tensor, std::less<>> tensors_;
};

}  // namespace penstock
