#include "core/weights/dummy_source.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/philox.h"

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
  DummyWeightSource(uint64_t seed, bool tied, BaseAllocator& allocator)
      : seed_(seed), tied_(tied), allocator_(allocator) {}

  bool Contains(std::string_view name) const override {
    return !name.ends_with(".bias") && !(tied_ && name == "lm_head.weight");
  }

  absl::StatusOr<Tensor> Get(std::string_view name, const Shape& expected) const override {
    PENSTOCK_ASSIGN_OR_RETURN(Tensor tensor, Tensor::Make(DataType::kF32, expected, allocator_));
    auto* values = static_cast<float*>(tensor.raw());
    const int64_t count = tensor.num_elements();
    if (expected.rank() == 1) {
      std::fill_n(values, count, 1.0f);
      return tensor;
    }
    const auto columns = static_cast<float>(expected[expected.rank() - 1]);
    const float bound = std::sqrt(3.0f / columns);
    const uint64_t key = seed_ ^ HashName(name);
    for (int64_t i = 0; i < count; i += 4) {
      const auto block = static_cast<uint64_t>(i / 4);
      const PhiloxWords words =
          Philox({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0}, key);
      for (int64_t j = i; j < std::min(i + 4, count); ++j) {
        const float unit = static_cast<float>(words[static_cast<size_t>(j - i)] >> 8) * 0x1p-24f;
        values[j] = bound * (2.0f * unit - 1.0f);
      }
    }
    return tensor;
  }

  RopeRows rope_rows() const override { return RopeRows::kHalves; }
  void Forget(const Tensor&) const override {}

 private:
  const uint64_t seed_;
  const bool tied_;
  BaseAllocator& allocator_;
};

}  // namespace

std::unique_ptr<WeightSource> MakeDummyWeightSource(uint64_t seed, bool tied_embeddings,
                                                    BaseAllocator& allocator) {
  return std::make_unique<DummyWeightSource>(seed, tied_embeddings, allocator);
}

}  // namespace penstock
