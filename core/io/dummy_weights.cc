#include "core/io/dummy_weights.h"

#include <algorithm>
#include <cmath>

#include "core/base/check.h"
#include "core/base/philox.h"
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
    PENSTOCK_ASSIGN_OR_RETURN(Tensor tensor, Tensor::Make(TypeOf(expected), expected, allocator_));
    if (name.ends_with("norm.weight")) {
      std::fill_n(static_cast<float*>(tensor.raw()), tensor.num_elements(), 1.0f);
      return tensor;
    }
    const auto columns = static_cast<float>(expected[expected.rank() - 1]);
    const float bound = expected.rank() > 1 ? std::sqrt(3.0f / columns) : 0.125f;
    const uint64_t key = seed_ ^ HashName(name);
    if (tensor.type() == DataType::kF32) {
      Fill(key, bound, tensor, [](float value) { return value; });
    } else {
      Fill(key, bound, tensor, FloatToBFloat16);
    }
    return tensor;
  }

  std::vector<TensorInfo> Tensors() const override;

  RopeRows rope_rows() const override { return RopeRows::kHalves; }
  void Forget(const Tensor&) const override {}

 private:
  DataType TypeOf(const Shape& shape) const { return shape.rank() > 1 ? type_ : DataType::kF32; }

  // Uniform in +-bound, four elements of one Philox block at a time.
  template <typename Convert>
  static void Fill(uint64_t key, float bound, Tensor& tensor, Convert convert) {
    auto* values = static_cast<decltype(convert(0.0f))*>(tensor.raw());
    const int64_t count = tensor.num_elements();
    for (int64_t i = 0; i < count; i += 4) {
      const auto block = static_cast<uint64_t>(i / 4);
      const PhiloxWords words =
          Philox({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0}, key);
      for (int64_t j = i; j < std::min(i + 4, count); ++j) {
        const float unit = static_cast<float>(words[static_cast<size_t>(j - i)] >> 8) * 0x1p-24f;
        values[j] = convert(bound * (2.0f * unit - 1.0f));
      }
    }
  }

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
