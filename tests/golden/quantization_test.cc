// Every quantized element type against the values that PyPI's gguf gives for random blocks
// (make_quantization.py).
#include <cstring>
#include <fstream>

#include "core/tensor/data_type.h"
#include "core/tensor/dequantize.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace penstock {
namespace {

std::vector<uint8_t> FromHex(const std::string& hex) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

class QuantizationTest : public ::testing::TestWithParam<DataType> {};

TEST_P(QuantizationTest, ValuesAreThoseOfGguf) {
  std::ifstream file(PENSTOCK_SOURCE_DIR "/tests/golden/quantization.json");
  const auto golden = nlohmann::json::parse(file, nullptr, false);
  ASSERT_FALSE(golden.is_discarded());
  const auto& entry = golden["types"][std::string(Name(GetParam()))];
  ASSERT_TRUE(entry.is_object());
  const std::vector<uint8_t> blocks = FromHex(entry["blocks"]);
  const std::vector<uint8_t> value_bytes = FromHex(entry["values"]);
  std::vector<float> expected(value_bytes.size() / sizeof(float));
  std::memcpy(expected.data(), value_bytes.data(), value_bytes.size());
  ASSERT_EQ(blocks.size() / static_cast<size_t>(Info(GetParam()).block_bytes) *
                static_cast<size_t>(Info(GetParam()).block),
            expected.size());

  std::vector<float> values(expected.size());
  Dequantize(GetParam(), blocks.data(), static_cast<int64_t>(values.size()), values.data());
  for (size_t i = 0; i < values.size(); ++i) {
    // gguf rounds d * q and the minimum apart, here they are fused: half a unit in the last place
    // of the larger of the two.
    ASSERT_NEAR(values[i], expected[i], 1e-6f * (std::abs(expected[i]) + 1.0f)) << "element " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, QuantizationTest,
                         ::testing::Values(DataType::kQ4_0, DataType::kQ4_1, DataType::kQ5_0,
                                           DataType::kQ5_1, DataType::kQ8_0, DataType::kQ4_K,
                                           DataType::kQ5_K, DataType::kQ6_K),
                         [](const auto& info) { return std::string(Name(info.param)); });

}  // namespace
}  // namespace penstock
