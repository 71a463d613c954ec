// BaseWeight: what every weight class is, from one norm up to a whole model. A weight loads its
// own tensors from a source, in place where the layout allows it, and says how many bytes it
// holds. Const after Load.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/weight_source.h"
#include "core/model/model_config.h"
#include "core/tensor/allocator.h"
#include "core/tensor/tensor.h"

namespace penstock {

// Where weights come from and where copies go. A dummy load is a load from MakeDummyWeightSource.
struct WeightLoader {
  // A packed tensor as the kernels read it: the stream's own if it has one, or a copy with each row
  // where the stream's order says. The place keeps the stream for as long as it reads it.
  using Place = std::function<absl::StatusOr<Tensor>(const WeightStream& packed)>;

  const WeightSource& source;
  const ModelConfig& config;
  BaseAllocator& allocator;  // of the host
  Place place = nullptr;     // none: tensors stay, or are read into the allocator's memory

  // The tensor in its place. Errors: the place's.
  absl::StatusOr<Tensor> Placed(const WeightStream& packed) const;
  // The same of what the source has given, which forgets it if it has gone elsewhere.
  absl::StatusOr<Tensor> PlacedOriginal(const WeightStream& original) const;
  // The source's tensor in its place. Errors: the source's and the place's.
  absl::StatusOr<Tensor> Get(std::string_view name, const Shape& expected) const;
};

class BaseWeight {
 public:
  virtual ~BaseWeight() = default;

  // Loads everything below `prefix` ("layers.3.self_attn"). Errors: the source's.
  virtual absl::Status Load(const WeightLoader& loader, std::string_view prefix) = 0;
  virtual int64_t bytes() const = 0;

 protected:
  BaseWeight() = default;
  BaseWeight(const BaseWeight&) = default;
  BaseWeight& operator=(const BaseWeight&) = default;
  BaseWeight(BaseWeight&&) = default;
  BaseWeight& operator=(BaseWeight&&) = default;
};

// A block of rows of a packed weight, or of elements of a vector.
struct WeightPart {
  std::string name;
  int64_t rows;
  int64_t rope_heads = 0;  // > 0: rows of that many heads, to be put into the half-split order
};

// Weights below each other that are one matrix product: one tensor where they have one element
// type, else one for each run of a type (files of mixed quantization).
struct PackedWeight {
  std::vector<Tensor> tensors;  // [rows, columns] each, top to bottom

  int64_t bytes() const;
};

// Packs the parts and forgets the originals; a run of a single part in the right order stays in
// place. REQUIRES: parts with heads stand above those without, and have heads of one size. Errors:
// the source's and the allocator's.
absl::StatusOr<PackedWeight> PackRows(const WeightLoader& loader,
                                      const std::vector<WeightPart>& parts, int64_t columns);

// Vectors (biases, norms) behind each other as f32 [all rows], whatever the source has them in:
// they are small, and kernels add and multiply with them in f32. One f32 part in the right order
// stays in place, else the originals are forgotten. Errors: UNIMPLEMENTED for a quantized vector,
// naming it; the source's and the allocator's.
absl::StatusOr<Tensor> PackVectors(const WeightLoader& loader,
                                   const std::vector<WeightPart>& parts);

}  // namespace penstock
