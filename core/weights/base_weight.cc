#include "core/weights/base_weight.h"

#include <cstring>
#include <span>

#include "core/tensor/dequantize.h"

namespace penstock {
namespace {

// The row of a head that comes to place i in the half-split order, when the source pairs (2i,
// 2i + 1).
int64_t InterleavedRow(int64_t i, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  return i < half ? 2 * i : 2 * (i - half) + 1;
}

struct Source {
  Tensor tensor;
  int64_t head_dim = 0;  // > 0: the rows of heads of this size are to be reordered

  // The source's row that comes to place `row`.
  int64_t Origin(int64_t row) const {
    if (head_dim == 0) return row;
    return row / head_dim * head_dim + InterleavedRow(row % head_dim, head_dim);
  }
};

// The tensors of the parts, whose rows have this shape.
absl::StatusOr<std::vector<Source>> GetSources(const WeightLoader& loader,
                                               const std::vector<WeightPart>& parts,
                                               std::span<const int64_t> row_shape) {
  const bool interleaved = loader.source.rope_rows() == WeightSource::RopeRows::kInterleaved;
  std::vector<Source> sources;
  for (const WeightPart& part : parts) {
    std::vector<int64_t> shape = {part.rows};
    shape.insert(shape.end(), row_shape.begin(), row_shape.end());
    Source source;
    PENSTOCK_ASSIGN_OR_RETURN(source.tensor, loader.source.Get(part.name, Shape(shape)));
    if (interleaved && part.rope_heads > 0) source.head_dim = part.rows / part.rope_heads;
    sources.push_back(std::move(source));
  }
  return sources;
}

// Copies the rows of `sources`, which have one element type, below each other.
absl::StatusOr<Tensor> CopyRows(const WeightLoader& loader, std::span<const Source> sources) {
  int64_t rows = 0;
  for (const Source& source : sources) rows += source.tensor.dim(0);
  const Tensor& first = sources.front().tensor;
  PENSTOCK_ASSIGN_OR_RETURN(
      Tensor packed, Tensor::Make(first.type(), Shape({rows, first.dim(1)}), loader.allocator));
  const auto row_bytes = static_cast<size_t>(packed.bytes() / rows);
  auto* place = static_cast<uint8_t*>(packed.raw());
  for (const Source& source : sources) {
    const auto* from = static_cast<const uint8_t*>(source.tensor.raw());
    for (int64_t row = 0; row < source.tensor.dim(0); ++row) {
      std::memcpy(place, from + static_cast<size_t>(source.Origin(row)) * row_bytes, row_bytes);
      place += row_bytes;
    }
    loader.source.Forget(source.tensor);
  }
  return packed;
}

}  // namespace

absl::StatusOr<Tensor> WeightLoader::Placed(const Tensor& packed) const {
  if (!place) return packed;
  return place(packed);
}

absl::StatusOr<Tensor> WeightLoader::PlacedOriginal(const Tensor& original) const {
  PENSTOCK_ASSIGN_OR_RETURN(Tensor placed, Placed(original));
  if (placed.raw() != original.raw()) source.Forget(original);
  return placed;
}

absl::StatusOr<Tensor> WeightLoader::Get(std::string_view name, const Shape& expected) const {
  PENSTOCK_ASSIGN_OR_RETURN(const Tensor tensor, source.Get(name, expected));
  return PlacedOriginal(tensor);
}

int64_t PackedWeight::bytes() const {
  int64_t sum = 0;
  for (const Tensor& tensor : tensors) sum += tensor.bytes();
  return sum;
}

absl::StatusOr<PackedWeight> PackRows(const WeightLoader& loader,
                                      const std::vector<WeightPart>& parts, int64_t columns) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<Source> sources,
                            GetSources(loader, parts, std::span(&columns, 1)));
  PackedWeight packed;
  for (size_t first = 0; first < sources.size();) {
    size_t last = first + 1;
    while (last < sources.size() && sources[last].tensor.type() == sources[first].tensor.type()) {
      ++last;
    }
    if (last == first + 1 && sources[first].head_dim == 0) {
      PENSTOCK_ASSIGN_OR_RETURN(Tensor whole, loader.PlacedOriginal(sources[first].tensor));
      packed.tensors.push_back(std::move(whole));
    } else {
      PENSTOCK_ASSIGN_OR_RETURN(Tensor run,
                                CopyRows(loader, std::span(sources).subspan(first, last - first)));
      PENSTOCK_ASSIGN_OR_RETURN(run, loader.Placed(run));
      packed.tensors.push_back(std::move(run));
    }
    first = last;
  }
  return packed;
}

absl::StatusOr<Tensor> PackVectors(const WeightLoader& loader,
                                   const std::vector<WeightPart>& parts) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<Source> sources, GetSources(loader, parts, {}));
  int64_t count = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const DataType type = sources[i].tensor.type();
    if (Info(type).block > 1) {
      return absl::UnimplementedError(
          absl::StrCat("'", parts[i].name, "' is ", Abs(Name(type)),
                       "; biases and norms are supported as f32, f16 and bf16"));
    }
    count += parts[i].rows;
  }
  const Source& first = sources.front();
  if (sources.size() == 1 && first.tensor.type() == DataType::kF32 && first.head_dim == 0) {
    return loader.PlacedOriginal(first.tensor);
  }
  PENSTOCK_ASSIGN_OR_RETURN(Tensor packed, Tensor::Make(DataType::kF32, {count}, loader.allocator));
  auto* place = static_cast<float*>(packed.raw());
  for (const Source& source : sources) {
    std::vector<float> values(static_cast<size_t>(source.tensor.dim(0)));
    Dequantize(source.tensor.type(), source.tensor.raw(), source.tensor.dim(0), values.data());
    for (int64_t row = 0; row < source.tensor.dim(0); ++row) {
      *place++ = values[static_cast<size_t>(source.Origin(row))];
    }
    loader.source.Forget(source.tensor);
  }
  return loader.Placed(packed);
}

}  // namespace penstock
