#include "core/io/gguf_format.h"

#include <array>

#include "core/base/status.h"

namespace penstock {
namespace {

struct ValueType {
  std::string_view name;
  int64_t bytes;  // 0: not of one size
  bool integer;
};

constexpr std::array<ValueType, 13> kValueTypes = {{{"u8", 1, true},
                                                    {"i8", 1, true},
                                                    {"u16", 2, true},
                                                    {"i16", 2, true},
                                                    {"u32", 4, true},
                                                    {"i32", 4, true},
                                                    {"f32", 4, false},
                                                    {"bool", 1, false},
                                                    {"string", 0, false},
                                                    {"array", 0, false},
                                                    {"u64", 8, true},
                                                    {"i64", 8, true},
                                                    {"f64", 8, false}}};

// By code; empty where the specification has none.
constexpr std::array<std::string_view, 31> kElementNames = {
    "F32",     "F16",    "Q4_0",    "Q4_1",  "",       "",      "Q5_0",  "Q5_1",
    "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
    "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
    "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16"};

}  // namespace

std::string GgufTypeName(uint32_t type) {
  if (type < kValueTypes.size()) return std::string(kValueTypes[type].name);
  return absl::StrCat("type ", type);
}

std::optional<int64_t> GgufScalarBytes(uint32_t type) {
  if (type >= kValueTypes.size() || kValueTypes[type].bytes == 0) return std::nullopt;
  return kValueTypes[type].bytes;
}

bool IsGgufInteger(uint32_t type) { return type < kValueTypes.size() && kValueTypes[type].integer; }

std::optional<DataType> GgufElementType(uint32_t code) {
  switch (code) {
    case 0:
      return DataType::kF32;
    case 1:
      return DataType::kF16;
    case 2:
      return DataType::kQ4_0;
    case 3:
      return DataType::kQ4_1;
    case 6:
      return DataType::kQ5_0;
    case 7:
      return DataType::kQ5_1;
    case 8:
      return DataType::kQ8_0;
    case 12:
      return DataType::kQ4_K;
    case 13:
      return DataType::kQ5_K;
    case 14:
      return DataType::kQ6_K;
    case 30:
      return DataType::kBF16;
    default:
      return std::nullopt;
  }
}

std::string GgufElementTypeName(uint32_t code) {
  if (code < kElementNames.size() && !kElementNames[code].empty()) {
    return std::string(kElementNames[code]);
  }
  return absl::StrCat("type ", code);
}

}  // namespace penstock
