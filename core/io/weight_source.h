// WeightSource: one interface over every weight file format. It hands out tensors under Penstock's
// canonical names, which are those of Hugging Face without the "model." in front:
//   embed_tokens.weight, layers.<i>.self_attn.q_proj.weight, ..., norm.weight, lm_head.weight
// Thread rule: const methods may run at the same time.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/io/weight_stream.h"
#include "core/tensor/tensor.h"

namespace penstock {

// What a source says of a tensor without reading it.
struct TensorInfo {
  std::string name;  // canonical
  DataType type = DataType::kF32;
  Shape shape;
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual bool Contains(std::string_view name) const = 0;
  // The tensor, in place where the format allows it (a view that keeps the file mapped), rows
  // outermost: a linear layer is [out_features, in_features].
  // Errors: NOT_FOUND; INVALID_ARGUMENT when the file's shape is not `expected`; both name the
  // file and the tensor.
  virtual absl::StatusOr<Tensor> Get(std::string_view name, const Shape& expected) const = 0;

  // The same to be read in parts, by whoever takes it elsewhere. Errors: those of Get.
  virtual absl::StatusOr<WeightStream> Open(std::string_view name, const Shape& expected) const {
    PENSTOCK_ASSIGN_OR_RETURN(Tensor tensor, Get(name, expected));
    return WeightStream::Of(std::move(tensor));
  }

  // All tensors, sorted by name, for people to look at; empty if the source cannot say.
  virtual std::vector<TensorInfo> Tensors() const { return {}; }

  // How the rows of q_proj and k_proj are ordered. kInterleaved files (GGUF of the llama
  // architecture) pair rows (2i, 2i+1); Penstock computes in the Hugging Face order (i, i + d/2).
  enum class RopeRows { kHalves, kInterleaved };
  virtual RopeRows rope_rows() const = 0;

  // Tells the source that this tensor's bytes have been copied, or are about to be by a stream that
  // stays right, and are not needed soon.
  virtual void Forget(const Tensor& tensor) const = 0;
};

}  // namespace penstock
