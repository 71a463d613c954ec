// The codes of GGUF files: metadata value types and tensor element types.
// Source: the GGUF specification (ggml documentation, docs/gguf.md). All functions are pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/quoted.h"  // for whoever names what the file holds
#include "core/tensor/data_type.h"

namespace penstock {

inline constexpr std::string_view kGgufMagic = "GGUF";
inline constexpr uint32_t kGgufOldestVersion = 2;
inline constexpr uint32_t kGgufVersion = 3;
inline constexpr int64_t kGgufDefaultAlignment = 32;

// Metadata value types, by their codes in the file.
enum GgufType : uint32_t {
  kGgufU8 = 0,
  kGgufI8 = 1,
  kGgufU16 = 2,
  kGgufI16 = 3,
  kGgufU32 = 4,
  kGgufI32 = 5,
  kGgufF32 = 6,
  kGgufBool = 7,
  kGgufString = 8,
  kGgufArray = 9,
  kGgufU64 = 10,
  kGgufI64 = 11,
  kGgufF64 = 12,
};

// "u32", or "type 99" for a code that the format does not define.
std::string GgufTypeName(uint32_t type);
// Bytes of a number or bool; nothing for strings, arrays and undefined codes.
std::optional<int64_t> GgufScalarBytes(uint32_t type);
bool IsGgufInteger(uint32_t type);

// The element type for a tensor type code; nothing if it is not supported.
std::optional<DataType> GgufElementType(uint32_t code);
// "Q6_K", or "type 99" for a code without a name here.
std::string GgufElementTypeName(uint32_t code);
inline constexpr std::string_view kGgufElementTypes =
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K";

}  // namespace penstock
