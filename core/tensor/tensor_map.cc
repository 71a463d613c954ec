#include "core/tensor/tensor_map.h"

namespace penstock {

absl::Status TensorMap::Insert(std::string name, Tensor tensor) {
  const auto [place, inserted] = tensors_.try_emplace(std::move(name), std::move(tensor));
  if (!inserted) {
    return absl::AlreadyExistsError(absl::StrCat("tensor '", place->first, "' is there twice"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> TensorMap::Get(std::string_view name) const {
  const auto place = tensors_.find(name);
  if (place == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("there is no tensor '", Abs(name), "'"));
  }
  return place->second;
}

int64_t TensorMap::bytes() const {
  int64_t sum = 0;
  for (const auto& [name, tensor] : tensors_) sum += tensor.bytes();
  return sum;
}

}  // namespace penstock
