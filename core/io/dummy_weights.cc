#include "core/io/dummy_weights.h"

#include <algorithm>
#include <cmath>

#include "core/base/check.h"
#include "core/io/dummy_values.h"
#include "core/io/tensor_names.h"
#include "core/model/model_tensors.h"

namespace penstock {
namespace {

// FNV-1a, the seed of a tensor's own stream.
uint64_t HashName(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash;
}

class DummyWeightSource final : public WeightSource {
 public:
  DummyWeightSource(uint64_t seed, const ModelConfig& config, DataType type,
                    BaseAllocator& allocator)
      : seed_(seed), config_(config), type_(type), allocator_(allocator) {
    PENSTOCK_CHECK(type == DataType::kF32 || type == DataType::kBF16);
  }

  bool Contains(std::string_view name) const override { return IsTensorOf(config_, name); }

  absl::StatusOr<Tensor> Get(std::string_view name, const Shape& expected) const override {
    PENSTOCK_ASSIGN_OR_RETURN(const WeightStream stream, Open(name, expected));
    return stream.InMemory(allocator_, nullptr);
  }

  absl::StatusOr<WeightStream> Open(std::string_view name, const Shape& expected) const override {
    PENSTOCK_RETURN_IF_ERROR(TensorBytes(TypeOf(expected), expected).status());
    WeightStream stream;
    stream.type = TypeOf(expected);
    stream.shape = expected;
    if (name.ends_with("norm.weight")) {
      stream.read = [](int64_t /*first*/, int64_t count, void* out) {
        std::fill_n(static_cast<float*>(out), count, 1.0f);
      };
      return stream;
    }
    const auto columns = static_cast<float>(expected[expected.rank() - 1]);
    const float bound = expected.rank() > 1 ? std::sqrt(3.0f / columns) : 0.125f;
    const uint64_t key = seed_ ^ HashName(name);
    if (stream.type == DataType::kF32) {
      stream.read = [key, bound](int64_t first, int64_t count, void* out) {
        DummyValues(key, bound, first, count, static_cast<float*>(out));
      };
    } else {
      stream.read = [key, bound](int64_t first, int64_t count, void* out) {
        DummyValues(key, bound, first, count, static_cast<uint16_t*>(out));
      };
    }
    return stream;
  }

  std::vector<TensorInfo> Tensors() const override;

  RopeRows rope_rows() const override { return RopeRows::kHalves; }
  void Forget(const Tensor&) const override {}

 private:
  DataType TypeOf(const Shape& shape) const { return shape.rank() > 1 ? type_ : DataType::kF32; }

  const uint64_t seed_;
  const ModelConfig config_;
  const DataType type_;
  BaseAllocator& allocator_;
};

std::vector<TensorInfo> DummyWeightSource::Tensors() const {
  std::vector<TensorInfo> infos;
  for (const ModelTensor& tensor : ModelTensors(config_)) {
    infos.push_back({tensor.name, TypeOf(tensor.shape), tensor.shape});
  }
  std::sort(infos.begin(), infos.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  return infos;
}

}  // namespace

std::unique_ptr<WeightSource> MakeDummyWeightSource(uint64_t seed, const ModelConfig& config,
                                                    DataType type, BaseAllocator& allocator) {
  return std::make_unique<DummyWeightSource>(seed, config, type, allocator);
}

}  // namespace penstock
