#include "core/weights/base_weight.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"
#include "core/tensor/dequantize.h"

namespace penstock {
namespace {

struct Source {
  WeightStream stream;
  int64_t head_dim = 0;  // > 0: rows of heads of this size, in another order
};

bool IsInterleaved(const WeightLoader& loader, const WeightPart& part) {
  return part.rope_heads > 0 && loader.source.rope_rows() == WeightSource::RopeRows::kInterleaved;
}

// The rows of `sources`, which have one element type, below each other.
WeightStream Joined(std::vector<Source> sources) {
  WeightStream joined;
  joined.type = sources.front().stream.type;
  int64_t rows = 0;
  for (const Source& source : sources) {
    if (source.head_dim > 0) {
      PENSTOCK_CHECK_EQ(joined.order.rows, rows);
      PENSTOCK_CHECK(rows == 0 || joined.order.head_dim == source.head_dim);
      joined.order = {rows + source.stream.shape[0], source.head_dim};
    }
    rows += source.stream.shape[0];
  }
  joined.shape = Shape({rows, sources.front().stream.shape[1]});
  joined.read = [sources = std::move(sources)](int64_t first, int64_t count, void* out) {
    const DataTypeInfo info = Info(sources.front().stream.type);
    auto* place = static_cast<uint8_t*>(out);
    int64_t begin = 0;
    for (const Source& source : sources) {
      const int64_t end = begin + source.stream.shape.num_elements();
      const int64_t from = std::max(first, begin);
      const int64_t to = std::min(first + count, end);
      if (from < to) {
        source.stream.read(from - begin, to - from, place);
        place += (to - from) / info.block * info.block_bytes;
      }
      begin = end;
    }
  };
  return joined;
}

}  // namespace

absl::StatusOr<Tensor> WeightLoader::Placed(const WeightStream& packed) const {
  if (!place) return packed.InMemory(allocator, nullptr);
  return place(packed);
}

absl::StatusOr<Tensor> WeightLoader::PlacedOriginal(const WeightStream& original) const {
  PENSTOCK_ASSIGN_OR_RETURN(Tensor placed, Placed(original));
  if (!original.tensor.empty() && placed.raw() != original.tensor.raw()) {
    source.Forget(original.tensor);
  }
  return placed;
}

absl::StatusOr<Tensor> WeightLoader::Get(std::string_view name, const Shape& expected) const {
  PENSTOCK_ASSIGN_OR_RETURN(const WeightStream stream, source.Open(name, expected));
  return PlacedOriginal(stream);
}

int64_t PackedWeight::bytes() const {
  int64_t sum = 0;
  for (const Tensor& tensor : tensors) sum += tensor.bytes();
  return sum;
}

absl::StatusOr<PackedWeight> PackRows(const WeightLoader& loader,
                                      const std::vector<WeightPart>& parts, int64_t columns) {
  std::vector<Source> sources;
  for (const WeightPart& part : parts) {
    Source& source = sources.emplace_back();
    PENSTOCK_ASSIGN_OR_RETURN(source.stream,
                              loader.source.Open(part.name, Shape({part.rows, columns})));
    if (IsInterleaved(loader, part)) source.head_dim = part.rows / part.rope_heads;
  }
  PackedWeight packed;
  for (auto first = sources.begin(); first != sources.end();) {
    const auto last = std::find_if(first, sources.end(), [&](const Source& source) {
      return source.stream.type != first->stream.type;
    });
    if (last == first + 1 && first->head_dim == 0) {
      PENSTOCK_ASSIGN_OR_RETURN(Tensor whole, loader.PlacedOriginal(first->stream));
      packed.tensors.push_back(std::move(whole));
    } else {
      PENSTOCK_ASSIGN_OR_RETURN(Tensor run, loader.Placed(Joined({first, last})));
      packed.tensors.push_back(std::move(run));
      for (auto source = first; source != last; ++source) {
        if (!source->stream.tensor.empty()) loader.source.Forget(source->stream.tensor);
      }
    }
    first = last;
  }
  return packed;
}

absl::StatusOr<Tensor> PackVectors(const WeightLoader& loader,
                                   const std::vector<WeightPart>& parts) {
  std::vector<Tensor> vectors;
  int64_t count = 0;
  for (const WeightPart& part : parts) {
    PENSTOCK_ASSIGN_OR_RETURN(Tensor vector, loader.source.Get(part.name, Shape({part.rows})));
    if (Info(vector.type()).block > 1) {
      return absl::UnimplementedError(
          absl::StrCat("'", part.name, "' is ", Abs(Name(vector.type())),
                       "; biases and norms are supported as f32, f16 and bf16"));
    }
    count += part.rows;
    vectors.push_back(std::move(vector));
  }
  if (parts.size() == 1 && vectors[0].type() == DataType::kF32 &&
      !IsInterleaved(loader, parts[0])) {
    return loader.PlacedOriginal(WeightStream::Of(vectors[0]));
  }
  PENSTOCK_ASSIGN_OR_RETURN(Tensor packed, Tensor::Make(DataType::kF32, {count}, loader.allocator));
  auto* place = static_cast<float*>(packed.raw());
  for (size_t i = 0; i < parts.size(); ++i) {
    const WeightPart& part = parts[i];
    std::vector<float> values(static_cast<size_t>(part.rows));
    Dequantize(vectors[i].type(), vectors[i].raw(), part.rows, values.data());
    RowOrder order;
    if (IsInterleaved(loader, part)) order = {part.rows, part.rows / part.rope_heads};
    for (int64_t row = 0; row < part.rows; ++row) {
      *place++ = values[static_cast<size_t>(order.Origin(row))];
    }
    loader.source.Forget(vectors[i]);
  }
  return loader.Placed(WeightStream::Of(packed));
}

}  // namespace penstock
