#include "core/kernels/dequantize.h"

#include "tests/support/backends.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr DataType kPrecisions[] = {DataType::kF32, DataType::kF16, DataType::kBF16};

void RunOn(Backend backend, const Tensor& stored, const Tensor& out, int64_t first = 0,
           const RowOrder& order = {}) {
  if (backend == Backend::kCpu) return cpu::Dequantize(Pool(), stored, first, order, out);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchDequantize(gpu.stream(), gpu.In(stored), first, order, gpu.Out(out));
  }
}

double Half(const uint8_t* bytes) {
  uint16_t half = 0;
  std::memcpy(&half, bytes, sizeof(half));
  return HalfToFloat(half);
}

// Element i of a block in float64, by the bytes of its layout.
double Float64(DataType type, const uint8_t* block, int i) {
  if (Info(type).block == 1) {
    uint32_t bits = 0;
    std::memcpy(&bits, block, static_cast<size_t>(Info(type).block_bytes));
    if (type == DataType::kF16) return HalfToFloat(static_cast<uint16_t>(bits));
    return std::bit_cast<float>(type == DataType::kBF16 ? bits << 16 : bits);
  }
  const double scale = Half(block);
  const double minimum = Half(block + 2);
  const auto nibble = [&](int at) { return block[at + i % 16] >> (i / 16 * 4) & 15; };
  const auto fifth = [&](int at) { return (block[at + i / 8] >> i % 8 & 1) * 16; };
  const auto part_scale = [&](int of_minimum) {
    const uint8_t* scales = block + 4;
    const int part = i / 32;
    if (part < 4) return scales[part + 4 * of_minimum] & 63;
    const int low = of_minimum == 1 ? scales[part + 4] >> 4 : scales[part + 4] & 15;
    return low + (scales[part - 4 + 4 * of_minimum] >> 6) * 16;
  };
  const auto part_quant = [&](int at) {
    return block[at + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
  };
  switch (type) {
    case DataType::kQ4_0:
      return scale * (nibble(2) - 8);
    case DataType::kQ4_1:
      return scale * nibble(4) + minimum;
    case DataType::kQ5_0:
      return scale * (nibble(6) + fifth(2) - 16);
    case DataType::kQ5_1:
      return scale * (nibble(8) + fifth(4)) + minimum;
    case DataType::kQ8_0:
      return scale * static_cast<int8_t>(block[2 + i]);
    case DataType::kQ4_K:
      return scale * part_scale(0) * part_quant(16) - minimum * part_scale(1);
    case DataType::kQ5_K:
      return scale * part_scale(0) * (part_quant(48) + (block[16 + i % 32] >> i / 32 & 1) * 16) -
             minimum * part_scale(1);
    default: {
      PENSTOCK_CHECK(type == DataType::kQ6_K);
      const int low = block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
      const int high = block[128 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
      return Half(block + 208) * static_cast<int8_t>(block[192 + i / 16]) * (low + high * 16 - 32);
    }
  }
}

// Every byte random, scales too: infinities and NaN are among them.
Tensor AnyBytes(DataType type, const Shape& shape, uint32_t seed) {
  Tensor tensor = Make(type, shape);
  std::mt19937 engine(seed);
  auto* bytes = static_cast<uint8_t*>(tensor.raw());
  for (int64_t i = 0; i < tensor.bytes(); ++i) bytes[i] = static_cast<uint8_t>(engine());
  return tensor;
}

// Element i, rounded to the type.
void Store(const Tensor& tensor, int64_t i, float value) {
  void* const data = const_cast<void*>(tensor.raw());
  if (tensor.type() == DataType::kF32) {
    static_cast<float*>(data)[i] = value;
  } else {
    static_cast<uint16_t*>(data)[i] =
        tensor.type() == DataType::kF16 ? FloatToHalf(value) : FloatToBFloat16(value);
  }
}

// Bit for bit; a NaN is a NaN.
void ExpectSame(const Tensor& found, const Tensor& expected) {
  const std::vector<float> values = ToVector(found);
  const std::vector<float> wanted = ToVector(expected);
  ASSERT_EQ(values.size(), wanted.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(wanted[i])) {
      ASSERT_TRUE(std::isnan(values[i])) << "element " << i << ": " << values[i];
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(wanted[i]))
          << "element " << i << ": " << values[i] << ", not " << wanted[i];
    }
  }
}

class DequantizeTest : public ::testing::TestWithParam<DataType> {
 protected:
  // One block, an odd number of them, several blocks of threads and a rest. Of a plain type with a
  // rest for a thread too.
  static std::vector<Shape> Shapes() {
    const int64_t block = Info(GetParam()).block;
    if (block == 1) return {{1}, {7}, {8}, {9}, {3, 1237}, {97, 113}};
    return {{block}, {3, block}, {77, 5 * block}};
  }
};

TEST_P(DequantizeTest, EveryBackendGivesTheTwinsBits) {
  for (const Shape& shape : Shapes()) {
    for (const Tensor& stored : {AnyBytes(GetParam(), shape, 3), AnyBytes(GetParam(), shape, 4)}) {
      std::vector<float> values(static_cast<size_t>(shape.num_elements()));
      Dequantize(stored.type(), stored.raw(), shape.num_elements(), values.data());
      for (const DataType precision : kPrecisions) {
        Tensor expected = Make(precision, shape);
        for (size_t i = 0; i < values.size(); ++i) {
          Store(expected, static_cast<int64_t>(i), values[i]);
        }
        for (const Backend backend : Backends()) {
          const Target target = {backend, precision};
          SCOPED_TRACE(::testing::Message() << target << " " << shape.ToString());
          const Tensor out = Poisoned(shape, precision);
          RunOn(backend, stored, out);
          ASSERT_NO_FATAL_FAILURE(ExpectSame(out, expected));
        }
      }
    }
  }
}

// Parts of a matrix with its rows in another order, cut anywhere: each element comes to its place,
// and no other element is touched. Three heads of six rows, five rows below them; of a plain type
// with rows that a thread's elements fit, and rows that they do not.
TEST_P(DequantizeTest, RowsOfHeadsComeToTheirPlaces) {
  const DataTypeInfo info = Info(GetParam());
  const RowOrder order = {18, 6};
  for (const int64_t columns :
       info.block == 1 ? std::vector<int64_t>{1, 27, 40} : std::vector<int64_t>{3 * info.block}) {
    const Shape shape = {23, columns};
    const Tensor stored = AnyBytes(GetParam(), shape, 5);
    const int64_t count = shape.num_elements();
    std::vector<float> values(static_cast<size_t>(count));
    Dequantize(stored.type(), stored.raw(), count, values.data());
    const int64_t step = std::max<int64_t>(info.block, 8);
    for (const auto& [first, size] : {std::pair<int64_t, int64_t>{0, count},
                                      {0, step},
                                      {2 * step, count - 2 * step},
                                      {step, (count / step - 1) / 2 * step}}) {
      if (size <= 0 || first + size > count) continue;
      const Tensor part = Tensor::Borrow(static_cast<uint8_t*>(const_cast<void*>(stored.raw())) +
                                             first / info.block * info.block_bytes,
                                         stored.type(), {size}, Device::kCpu);
      for (const Backend backend : Backends()) {
        for (const DataType precision : kPrecisions) {
          const Target target = {backend, precision};
          SCOPED_TRACE(::testing::Message()
                       << target << " " << columns << " columns, " << size << " from " << first);
          const Tensor out = Poisoned(shape, precision);
          RunOn(backend, part, out, first, order);
          const Tensor expected = Poisoned(shape, precision);
          for (int64_t i = first; i < first + size; ++i) {
            // By the rule, not by RowOrder: pairs (2i, 2i + 1) become (i, i + 3).
            int64_t row = i / columns;
            if (row < 18) row = row / 6 * 6 + row % 6 / 2 + row % 2 * 3;
            Store(expected, row * columns + i % columns, values[static_cast<size_t>(i)]);
          }
          ASSERT_NO_FATAL_FAILURE(ExpectSame(out, expected));
        }
      }
    }
  }
}

TEST_P(DequantizeTest, EveryBackendMatchesFloat64) {
  const DataTypeInfo info = Info(GetParam());
  const Shape shape = {5, info.block == 1 ? 77 : 3 * info.block};
  const Tensor stored =
      info.block == 1 ? As(GetParam(), Random(shape, 1)) : RandomBlocks(GetParam(), shape, 1);
  std::vector<double> reference;
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    const auto* block =
        static_cast<const uint8_t*>(stored.raw()) + i / info.block * info.block_bytes;
    reference.push_back(Float64(GetParam(), block, static_cast<int>(i % info.block)));
  }
  for (const Backend backend : Backends()) {
    for (const DataType precision : kPrecisions) {
      const Tensor out = Poisoned(shape, precision);
      RunOn(backend, stored, out);
      const Target target = {backend, precision};
      EXPECT_LE(RelativeError(out, reference), Tolerance(precision)) << target;
      // Sums hide one wrong element among many.
      const std::vector<float> values = ToVector(out);
      const double largest = *std::max_element(values.begin(), values.end());
      for (size_t i = 0; i < values.size(); ++i) {
        ASSERT_NEAR(values[i], reference[i], largest * Tolerance(precision)) << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, DequantizeTest,
                         ::testing::Values(DataType::kF32, DataType::kF16, DataType::kBF16,
                                           DataType::kQ4_0, DataType::kQ4_1, DataType::kQ5_0,
                                           DataType::kQ5_1, DataType::kQ8_0, DataType::kQ4_K,
                                           DataType::kQ5_K, DataType::kQ6_K),
                         [](const auto& info) { return std::string(Name(info.param)); });

}  // namespace
}  // namespace penstock
