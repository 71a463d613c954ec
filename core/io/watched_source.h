// A weight source that stands before another while a model loads: it tells how far the loading has
// come, and compares each tensor's bytes with the hash that a check file says, if there is one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "core/io/weight_source.h"

namespace penstock {

// Called on the thread that loads, before each tensor: its name, and the weights (elements) of
// those before it.
using TensorCallback = std::function<void(std::string_view tensor, int64_t weights_done)>;

class WatchedSource final : public WeightSource {
 public:
  // The source and the hashes must outlive it; `hashes` null: nothing is compared.
  WatchedSource(const WeightSource& source, const std::map<std::string, uint64_t>* hashes,
                TensorCallback callback)
      : source_(source), hashes_(hashes), callback_(std::move(callback)) {}

  bool Contains(std::string_view name) const override { return source_.Contains(name); }
  // Errors: the source's; DATA_LOSS for other bytes than those of the check file; NOT_FOUND for a
  // tensor that it does not name.
  absl::StatusOr<Tensor> Get(std::string_view name, const Shape& expected) const override;
  // Errors: the same.
  absl::StatusOr<WeightStream> Open(std::string_view name, const Shape& expected) const override;
  RopeRows rope_rows() const override { return source_.rope_rows(); }
  void Forget(const Tensor& tensor) const override { source_.Forget(tensor); }

 private:
  void Tell(std::string_view name, const Shape& expected) const;
  absl::Status Compare(std::string_view name, const Tensor& tensor) const;

  const WeightSource& source_;
  const std::map<std::string, uint64_t>* const hashes_;
  const TensorCallback callback_;
  mutable int64_t done_ = 0;  // one thread loads
};

}  // namespace penstock
