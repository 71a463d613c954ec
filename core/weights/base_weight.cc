#include "core/weights/base_weight.h"

#include <cstring>
#include <span>

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
};

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
      int64_t origin = row;
      if (source.head_dim > 0) {
        origin = row / source.head_dim * source.head_dim +
                 InterleavedRow(row % source.head_dim, source.head_dim);
      }
      std::memcpy(place, from + static_cast<size_t>(origin) * row_bytes, row_bytes);
      place += row_bytes;
    }
    loader.source.Forget(source.tensor);
  }
  return packed;
}

}  // namespace

int64_t PackedWeight::bytes() const {
  int64_t sum = 0;
  for (const Tensor& tensor : tensors) sum += tensor.bytes();
  return sum;
}

absl::StatusOr<PackedWeight> PackRows(const WeightLoader& loader,
                                      const std::vector<WeightPart>& parts, int64_t columns) {
  const bool interleaved = loader.source.rope_rows() == WeightSource::RopeRows::kInterleaved;
  std::vector<Source> sources;
  for (const WeightPart& part : parts) {
    Source source;
    PENSTOCK_ASSIGN_OR_RETURN(source.tensor,
                              loader.source.Get(part.name, Shape({part.rows, columns})));
    if (interleaved && part.rope_heads > 0) source.head_dim = part.rows / part.rope_heads;
    sources.push_back(std::move(source));
  }
  PackedWeight packed;
  for (size_t first = 0; first < sources.size();) {
    size_t last = first + 1;
    while (last < sources.size() && sources[last].tensor.type() == sources[first].tensor.type()) {
      ++last;
    }
    if (last == first + 1 && sources[first].head_dim == 0) {
      packed.tensors.push_back(sources[first].tensor);
    } else {
      PENSTOCK_ASSIGN_OR_RETURN(Tensor run,
                                CopyRows(loader, std::span(sources).subspan(first, last - first)));
      packed.tensors.push_back(std::move(run));
    }
    first = last;
  }
  return packed;
}

}  // namespace penstock
