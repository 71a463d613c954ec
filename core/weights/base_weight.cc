#include "core/weights/base_weight.h"

#include <cstring>

#include "core/base/check.h"

namespace penstock {
namespace {

// The row of a head that comes to place i in the half-split order, when the source pairs (2i,
// 2i + 1).
int64_t InterleavedRow(int64_t i, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  return i < half ? 2 * i : 2 * (i - half) + 1;
}

}  // namespace

absl::StatusOr<Tensor> PackRows(const WeightLoader& loader, const std::vector<WeightPart>& parts,
                                int64_t columns) {
  PENSTOCK_CHECK(!parts.empty());
  std::vector<Tensor> sources;
  int64_t rows = 0;
  for (const WeightPart& part : parts) {
    PENSTOCK_ASSIGN_OR_RETURN(Tensor tensor,
                              loader.source.Get(part.name, Shape({part.rows, columns})));
    if (!sources.empty() && tensor.type() != sources.front().type()) {
      return absl::UnimplementedError(absl::StrCat(
          "'", part.name, "' is ", Abs(Name(tensor.type())), " but '", parts.front().name, "' is ",
          Abs(Name(sources.front().type())),
          ": layers of mixed element types are not supported yet; use a file of one quantization"));
    }
    rows += part.rows;
    sources.push_back(std::move(tensor));
  }
  PENSTOCK_ASSIGN_OR_RETURN(Tensor packed, Tensor::Make(sources.front().type(),
                                                        Shape({rows, columns}), loader.allocator));
  const auto row_bytes = static_cast<size_t>(packed.bytes() / rows);
  auto* place = static_cast<uint8_t*>(packed.raw());
  const bool interleaved = loader.source.rope_rows() == WeightSource::RopeRows::kInterleaved;
  for (size_t p = 0; p < parts.size(); ++p) {
    const auto* from = static_cast<const uint8_t*>(sources[p].raw());
    const int64_t part_rows = parts[p].rows;
    const int64_t head_dim =
        interleaved && parts[p].rope_heads > 0 ? part_rows / parts[p].rope_heads : 0;
    for (int64_t row = 0; row < part_rows; ++row) {
      int64_t origin = row;
      if (head_dim > 0) {
        origin = row / head_dim * head_dim + InterleavedRow(row % head_dim, head_dim);
      }
      std::memcpy(place, from + static_cast<size_t>(origin) * row_bytes, row_bytes);
      place += row_bytes;
    }
    loader.source.Forget(sources[p]);
  }
  return packed;
}

}  // namespace penstock
