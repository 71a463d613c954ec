// Seeded tensors and comparisons for the kernel tests. Tolerances belong to the element type of
// the arithmetic: one table, here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/base/check.h"
#include "core/base/thread_pool.h"
#include "core/tensor/dequantize.h"
#include "core/tensor/tensor.h"
#include "gtest/gtest.h"

namespace penstock::testing {

// ||out - reference|| / ||reference|| of float32 arithmetic.
inline constexpr double kFloatTolerance = 1e-5;

// The same where tensors hold that type and sums are float32.
inline double Tolerance(DataType type) {
  switch (type) {
    case DataType::kF16:
      return 3e-3;
    case DataType::kBF16:
      return 1e-2;
    default:
      PENSTOCK_CHECK(type == DataType::kF32);
      return kFloatTolerance;
  }
}

inline HostAllocator& Allocator() {
  static HostAllocator allocator;
  return allocator;
}

inline ThreadPool& Pool() {
  static ThreadPool pool(2);
  return pool;
}

inline Tensor Make(DataType type, const Shape& shape) {
  absl::StatusOr<Tensor> tensor = Tensor::Make(type, shape, Allocator());
  PENSTOCK_CHECK(tensor.ok());
  return *std::move(tensor);
}

// Every element NaN (-1 in integers): what a kernel forgets to write shows.
inline Tensor Poisoned(const Shape& shape, DataType type = DataType::kF32) {
  Tensor tensor = Make(type, shape);
  std::fill_n(static_cast<uint8_t*>(tensor.raw()), tensor.bytes(), uint8_t{0xff});
  return tensor;
}

// Normally distributed, by Marsaglia's polar method. These are the numbers of
// std::normal_distribution<float>, which takes two long logarithms for each where nothing is
// optimized: most of what tests of kernels did under a sanitizer.
class NormalNumbers {
 public:
  explicit NormalNumbers(uint32_t seed) : engine_(seed) {}
  float Next() {
    if (has_other_) {
      has_other_ = false;
      return other_;
    }
    float x = 0;
    float y = 0;
    float square = 0;
    do {
      x = 2.0f * Uniform() - 1.0f;
      y = 2.0f * Uniform() - 1.0f;
      square = x * x + y * y;
    } while (square > 1.0f || square == 0.0f);
    const float factor = std::sqrt(-2 * std::log(square) / square);
    other_ = x * factor;
    has_other_ = true;
    return y * factor;
  }

 private:
  // In [0, 1).
  float Uniform() {
    return std::min(static_cast<float>(engine_()) / 4294967296.0f, 0x1.fffffep-1f);
  }

  std::mt19937 engine_;
  bool has_other_ = false;
  float other_ = 0;
};

inline Tensor Random(const Shape& shape, uint32_t seed, float scale = 1.0f) {
  Tensor tensor = Make(DataType::kF32, shape);
  NormalNumbers normal(seed);
  auto* const values = static_cast<float*>(tensor.raw());
  for (int64_t i = 0; i < tensor.num_elements(); ++i) values[i] = normal.Next() * scale;
  return tensor;
}

// Random bytes in the blocks of a quantized type, with small finite scales.
inline Tensor RandomBlocks(DataType type, const Shape& shape, uint32_t seed) {
  Tensor tensor = Make(type, shape);
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> scale(-0.1f, 0.1f);
  const DataTypeInfo info = Info(type);
  const int64_t blocks = tensor.num_elements() / info.block;
  for (int64_t b = 0; b < blocks; ++b) {
    if (type == DataType::kQ4_1) {
      auto& block = static_cast<BlockQ4_1*>(tensor.raw())[b];
      block.scale = FloatToHalf(scale(engine));
      block.minimum = FloatToHalf(scale(engine));
      for (uint8_t& pair : block.quants) pair = static_cast<uint8_t>(engine());
    } else if (type == DataType::kQ8_0) {
      auto& block = static_cast<BlockQ8_0*>(tensor.raw())[b];
      block.scale = FloatToHalf(scale(engine) / 16);
      for (int8_t& quant : block.quants) quant = static_cast<int8_t>(engine());
    } else {
      auto* block = static_cast<uint8_t*>(tensor.raw()) + b * info.block_bytes;
      for (int64_t i = 0; i < info.block_bytes; ++i) block[i] = static_cast<uint8_t>(engine());
      // The f16 scale is the last field of a Q6_K block and the first of all others; a minimum, or
      // two bytes that may be anything, follow it.
      const int64_t at = type == DataType::kQ6_K ? info.block_bytes - 2 : 0;
      for (int64_t i = at; i < std::min(at + 4, info.block_bytes); i += 2) {
        const uint16_t half = FloatToHalf(scale(engine) / 16);
        std::memcpy(block + i, &half, sizeof(half));
      }
    }
  }
  return tensor;
}

// The elements of a dense f32, f16 or bf16 tensor.
inline std::vector<float> ToVector(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
  Dequantize(tensor.type(), tensor.raw(), tensor.num_elements(), values.data());
  return values;
}

// A tensor of that type with the values of another, towards zero where they do not fit.
inline Tensor As(DataType type, const Tensor& values) {
  Tensor tensor = Make(type, values.shape());
  const std::vector<float> elements = ToVector(values);
  const float* const from = elements.data();
  const size_t count = elements.size();
  for (size_t i = 0; i < count; ++i) {
    switch (type) {
      case DataType::kF32:
        static_cast<float*>(tensor.raw())[i] = from[i];
        break;
      case DataType::kF16:
        static_cast<uint16_t*>(tensor.raw())[i] = FloatToHalf(from[i]);
        break;
      default:
        PENSTOCK_CHECK(type == DataType::kBF16);
        static_cast<uint16_t*>(tensor.raw())[i] =
            static_cast<uint16_t>(std::bit_cast<uint32_t>(from[i]) >> 16);
    }
  }
  return tensor;
}

template <typename T>
Tensor FromVector(std::vector<T>& values) {
  return Tensor::Borrow(values.data(), DataTypeOf<T>(), {static_cast<int64_t>(values.size())});
}

// The relative error of a tensor against float64 values. NaN counts as infinite.
inline double RelativeError(const Tensor& out, const std::vector<double>& reference) {
  const std::vector<float> values = ToVector(out);
  PENSTOCK_CHECK_EQ(values.size(), reference.size());
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) return INFINITY;
    error += (values[i] - reference[i]) * (values[i] - reference[i]);
    size += reference[i] * reference[i];
  }
  return std::sqrt(error / (size > 0 ? size : 1));
}

// x weight^T, for references of products. [num_tokens * out]
inline std::vector<double> ProductInFloat64(const Tensor& x, const Tensor& weight) {
  const std::vector<float> in = ToVector(x);
  const std::vector<float> rows = ToVector(weight);
  const auto features = static_cast<size_t>(weight.dim(1));
  std::vector<double> out;
  for (size_t t = 0; t < in.size(); t += features) {
    for (size_t n = 0; n < rows.size(); n += features) {
      double sum = 0;
      for (size_t k = 0; k < features; ++k) sum += double{in[t + k]} * rows[n + k];
      out.push_back(sum);
    }
  }
  return out;
}

}  // namespace penstock::testing
