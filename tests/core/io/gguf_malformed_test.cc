// GGUF files that are wrong: each gets an error that names the file and the place, and none makes
// the parser read outside the file or allocate more than a file of that size can need.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/io/gguf.h"
#include "core/tensor/dequantize.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using absl::StatusCode;

// Sizes that wrap, or change their sign, in careless arithmetic.
constexpr uint64_t kEvilSizes[] = {
    uint64_t{1} << 31,       (uint64_t{1} << 32) - 1, uint64_t{1} << 32,
    (uint64_t{1} << 32) + 1, uint64_t{1} << 60,       uint64_t{1} << 61,
    uint64_t{1} << 62,       (uint64_t{1} << 63) - 1, (uint64_t{1} << 63) - 8,
    uint64_t{1} << 63,       (uint64_t{1} << 63) + 8, UINT64_MAX - 31,
    UINT64_MAX - 7,          UINT64_MAX - 3,          UINT64_MAX,
};

testing::AssertionResult Invalid(const GgufBuilder& builder,
                                 std::initializer_list<std::string_view> words) {
  const auto file = ParseGguf(builder.Build());
  if (auto named = Fails(file, StatusCode::kInvalidArgument, {"model.gguf: "}); !named) {
    return named;
  }
  return Fails(file, StatusCode::kInvalidArgument, words);
}

testing::AssertionResult Unsupported(const GgufBuilder& builder,
                                     std::initializer_list<std::string_view> words) {
  return Fails(ParseGguf(builder.Build()), StatusCode::kUnimplemented, words);
}

// All that may be asked of a file; a sanitizer watches.
void ReadEverything(const GgufFile& file) {
  if (const auto config = ReadGgufConfig(file); config.ok()) {
    EXPECT_TRUE(IsOk(Validate(*config)));
  }
  (void)ReadGgufTokenizer(file);
  for (const std::string_view name : file.TensorNames()) {
    const Tensor tensor = *file.GetTensor(name);
    std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
    Dequantize(tensor.type(), tensor.raw(), tensor.num_elements(), values.data());
  }
}

TEST(GgufMalformedTest, TruncationAtEveryByteIsAnErrorOrAValidFile) {
  const std::vector<uint8_t> whole = TinyLlamaGguf().Build();
  for (size_t size = 0; size <= whole.size(); ++size) {
    const auto file = ParseGguf({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)});
    if (size < whole.size()) {  // the last tensor ends where the file does
      ASSERT_TRUE(Fails(file, StatusCode::kInvalidArgument, {"model.gguf: "})) << size;
    } else {
      ASSERT_TRUE(IsOk(file));
      ReadEverything(**file);
    }
  }
}

TEST(GgufMalformedTest, AnyOneByteChangedIsAnErrorOrAValidFile) {
  const std::vector<uint8_t> whole = TinyLlamaGguf().Build();
  for (size_t at = 0; at < std::min<size_t>(whole.size(), 2500); ++at) {  // data begins before
    for (const uint8_t flip : {0x01, 0x80, 0xff}) {
      std::vector<uint8_t> bytes = whole;
      bytes[at] ^= flip;
      if (const auto file = ParseGguf(bytes); file.ok()) ReadEverything(**file);
    }
  }
}

TEST(GgufMalformedTest, AForeignFileIsShownByItsFirstBytes) {
  EXPECT_TRUE(Fails(ParseGguf({}), StatusCode::kInvalidArgument, {"not a GGUF", "''", "'GGUF'"}));
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0";
  EXPECT_TRUE(Fails(ParseGguf({pointer.begin(), pointer.end()}), StatusCode::kInvalidArgument,
                    {"not a GGUF model file", "'version https://'", "'GGUF'"}));
  EXPECT_TRUE(Fails(ParseGguf({'P', 'K', 3, 4, 0xff, 0x1b, '[', '2', 'J', 10, 0, 0}),
                    StatusCode::kInvalidArgument, {"'PK\\x03\\x04\\xff\\x1b[2J\\n\\x00\\x00'"}));
  EXPECT_TRUE(Fails(ParseGguf({'G', 'G', 'U'}), StatusCode::kInvalidArgument, {"'GGU'"}));
}

TEST(GgufMalformedTest, OtherVersionsAreUnsupported) {
  for (const uint32_t version : {0u, 1u, 4u, UINT32_MAX}) {
    EXPECT_TRUE(
        Unsupported(GgufBuilder().Header("GGUF", version),
                    {"version " + std::to_string(version), "versions 2 and 3 are supported"}));
  }
}

TEST(GgufMalformedTest, ABigEndianFileIsCalledThat) {
  EXPECT_TRUE(Unsupported(GgufBuilder().Header("GGUF", 0x03000000), {"big-endian"}));
}

// CVE-2024-23605: the number of keys was multiplied unchecked.
TEST(GgufMalformedTest, CountsBeyondTheFileReserveNothing) {
  for (const uint64_t count : kEvilSizes) {
    EXPECT_TRUE(Invalid(TinyLlamaGguf().Counts({}, count), {std::to_string(count), "keys"}));
    EXPECT_TRUE(Invalid(TinyLlamaGguf().Counts(count, {}), {std::to_string(count), "tensors"}));
    EXPECT_TRUE(Invalid(TinyLlamaGguf().Counts(count, count), {"the header promises"}));
  }
  EXPECT_TRUE(Invalid(GgufBuilder().Int("a", 1).Counts({}, 9), {"promises 9 metadata keys"}));
  // Counts of the right size that the bytes do not bear out.
  EXPECT_TRUE(Invalid(TinyLlamaGguf().Counts({}, 30), {"model.gguf"}));
  EXPECT_TRUE(Invalid(TinyLlamaGguf().Counts(30, {}), {"model.gguf"}));
}

// CVE-2025-66960: string lengths without a bound.
TEST(GgufMalformedTest, StringLengthsBeyondTheFile) {
  for (const uint64_t length : kEvilSizes) {
    GgufBuilder value;
    value.Value("a.key", kGgufString, GgufBytes().Put(length));
    EXPECT_TRUE(Invalid(value, {"'a.key'", "the file ends at", "fetch it again"}));
    GgufBuilder element;
    element.Value(
        "a.key", kGgufArray,
        GgufBytes().Put<uint32_t>(kGgufString).Put<uint64_t>(2).PutString("x").Put(length));
    EXPECT_TRUE(Invalid(element, {"'a.key'", "string 1 of 2", "the file ends at"}));
    std::vector<uint8_t> name = GgufBuilder().Int("a.key", 1).Build();
    std::memcpy(name.data() + 24, &length, sizeof(length));
    EXPECT_TRUE(Fails(ParseGguf(name), StatusCode::kInvalidArgument, {"metadata key number 0"}));
  }
}

TEST(GgufMalformedTest, ArrayCountsBeyondTheFile) {
  for (const uint64_t count : kEvilSizes) {
    for (const uint32_t type : {kGgufU8, kGgufBool, kGgufI32, kGgufF64, kGgufString}) {
      GgufBuilder builder;
      builder.Value("a.key", kGgufArray, GgufBytes().Put<uint32_t>(type).Put(count).Put(0));
      EXPECT_TRUE(Invalid(builder, {"'a.key'", "the file ends at"})) << type << " " << count;
    }
  }
}

TEST(GgufMalformedTest, ValuesOfUndefinedTypes) {
  for (const uint32_t type : {13u, 99u, UINT32_MAX}) {
    EXPECT_TRUE(Invalid(GgufBuilder().Value("a.key", type, GgufBytes().Put<uint64_t>(0)),
                        {"'a.key'", "type " + std::to_string(type), "0 to 12"}));
    GgufBuilder array;
    array.Value("a.key", kGgufArray, GgufBytes().Put<uint32_t>(type).Put<uint64_t>(0));
    EXPECT_TRUE(Invalid(array, {"'a.key'", "type " + std::to_string(type)}));
  }
}

TEST(GgufMalformedTest, NestedArraysAreUnsupported) {
  GgufBuilder builder;
  builder.Value(
      "a.key", kGgufArray,
      GgufBytes().Put<uint32_t>(kGgufArray).Put<uint64_t>(1).Put<uint32_t>(0).Put<uint64_t>(0));
  EXPECT_TRUE(Unsupported(builder, {"'a.key'", "array of arrays"}));
}

TEST(GgufMalformedTest, BoolsThatAreNeitherZeroNorOne) {
  EXPECT_TRUE(Invalid(GgufBuilder().Value("a.key", kGgufBool, GgufBytes().Put<uint8_t>(2)),
                      {"'a.key'", "neither 0 nor 1"}));
}

TEST(GgufMalformedTest, DuplicateKeys) {
  GgufBuilder builder;
  builder.Int("a.key", 1).DuplicateValue("a.key", kGgufU32, GgufBytes().Put<uint32_t>(2));
  EXPECT_TRUE(Invalid(builder, {"'a.key'", "twice"}));
}

TEST(GgufMalformedTest, NamesThatAreEmptyOrTooLong) {
  EXPECT_TRUE(Invalid(GgufBuilder().Int("", 1), {"metadata key number 0", "0 bytes"}));
  EXPECT_TRUE(Invalid(GgufBuilder().Int(std::string(65536, 'k'), 1),
                      {"metadata key number 0", "65536 bytes", "kkk...'"}));
  EXPECT_TRUE(Invalid(GgufBuilder().F32Tensor("", {1}, 0), {"tensor number 0", "0 bytes"}));
  EXPECT_TRUE(Invalid(GgufBuilder().F32Tensor(std::string(65, 't'), {1}, 0), {"65 bytes", "64"}));
}

TEST(GgufMalformedTest, UnprintableNamesAreEscaped) {
  const std::string evil = "\x1b]0;title\x07\xc3\x28\n";
  EXPECT_TRUE(Invalid(GgufBuilder().Value(evil, 99, GgufBytes()), {"\\x1b]0;title\\x07\\xc3("}));
  EXPECT_TRUE(Invalid(GgufBuilder().RawTensor(evil, {1}, 0, 32), {"\\x1b]0;title\\x07\\xc3("}));
}

TEST(GgufMalformedTest, AlignmentsThatAreNoPowerOfTwoOrTooSmall) {
  for (const uint32_t alignment : {0u, 1u, 4u, 24u, 33u, UINT32_MAX}) {
    EXPECT_TRUE(Invalid(GgufBuilder().Int("general.alignment", alignment),
                        {"'general.alignment'", std::to_string(alignment), "power of two"}));
  }
  EXPECT_TRUE(Invalid(GgufBuilder().String("general.alignment", "32"), {"'general.alignment'"}));
}

TEST(GgufMalformedTest, AnAlignmentThatReachesBeyondTheFile) {
  for (const uint64_t alignment : {uint64_t{1} << 31, uint64_t{1} << 62}) {
    GgufBuilder builder = TinyLlamaGguf();
    builder.Value("general.alignment", kGgufU64, GgufBytes().Put(alignment));
    EXPECT_TRUE(Invalid(builder, {"tensor"}));
  }
}

TEST(GgufMalformedTest, DuplicateTensors) {
  EXPECT_TRUE(Invalid(GgufBuilder().F32Tensor("a.tensor", {4}, 0).F32Tensor("a.tensor", {4}, 0),
                      {"'a.tensor'", "twice"}));
}

TEST(GgufMalformedTest, NumbersOfDimensions) {
  EXPECT_TRUE(Invalid(GgufBuilder().RawTensor("a.tensor", {}, 0, 0).F32Tensor("b", {8}, 0),
                      {"'a.tensor'", "0 dimensions", "1 to 4"}));
  EXPECT_TRUE(
      Invalid(GgufBuilder().F32Tensor("a.tensor", {1, 1, 1, 1, 1}, 0), {"5 dimensions", "1 to 4"}));
}

// CVE-2024-21802 and CVE-2025-53630, -27940, -33298: dimensions and offsets, one product or sum
// after the other.
TEST(GgufMalformedTest, DimensionsThatAreZeroOrWrap) {
  EXPECT_TRUE(Invalid(GgufBuilder().RawTensor("a.tensor", {32, 0}, 0, 0),
                      {"'a.tensor'", "dimension 1 is 0"}));
  for (const uint64_t size : kEvilSizes) {
    for (const uint32_t type : {0u, 1u, 3u, 8u, 30u}) {
      for (const std::vector<uint64_t>& dims : {std::vector<uint64_t>{size},
                                                {size, size},
                                                {32, size},
                                                {32, size, size, size},
                                                {size / 32 * 32, 2}}) {
        EXPECT_TRUE(Invalid(GgufBuilder().RawTensor("a.tensor", dims, type, 0), {"'a.tensor'"}));
      }
    }
  }
  // 2^32 * 2^32 wraps to 0 elements; (2^61 + 1) * 8 to 8.
  EXPECT_TRUE(Invalid(GgufBuilder().RawTensor("t", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0),
                      {"too large"}));
  EXPECT_TRUE(
      Invalid(GgufBuilder().RawTensor("t", {8, (uint64_t{1} << 61) + 1}, 0, 0), {"too large"}));
}

TEST(GgufMalformedTest, OffsetsThatWrapOrPointBeyondTheFile) {
  for (const uint64_t size : kEvilSizes) {
    const uint64_t offset = size / 32 * 32;
    EXPECT_TRUE(Invalid(GgufBuilder().RawTensor("a.tensor", {4}, 0, offset).F32Tensor("b", {8}, 0),
                        {"'a.tensor'", "the file ends at", "fetch it again"}));
  }
}

TEST(GgufMalformedTest, OffsetsOffTheAlignment) {
  EXPECT_TRUE(Invalid(GgufBuilder().RawTensor("a.tensor", {1}, 0, 4).F32Tensor("b", {64}, 0),
                      {"'a.tensor'", "offset 4", "alignment 32"}));
}

TEST(GgufMalformedTest, TensorsThatOverlap) {
  EXPECT_TRUE(
      Invalid(GgufBuilder().F32Tensor("a.tensor", {16}, 0).RawTensor("b.tensor", {8}, 0, 32),
              {"'b.tensor' begins at offset 32", "inside tensor 'a.tensor' of 64 bytes"}));
  EXPECT_TRUE(
      Invalid(GgufBuilder().F32Tensor("a.tensor", {16}, 0).RawTensor("b.tensor", {16}, 0, 0),
              {"must not overlap"}));
}

TEST(GgufMalformedTest, RowsThatAreNoWholeBlocks) {
  EXPECT_TRUE(Invalid(GgufBuilder().RawTensor("a.tensor", {33, 2}, 3, 0).F32Tensor("b", {64}, 0),
                      {"'a.tensor'", "q4_1", "32"}));
  EXPECT_TRUE(Invalid(GgufBuilder().RawTensor("a.tensor", {16, 2}, 8, 0).F32Tensor("b", {64}, 0),
                      {"'a.tensor'", "q8_0", "32"}));
}

// CVE-2026-7482: a tensor declared larger than the file was read from the heap beyond it.
TEST(GgufMalformedTest, ATensorLargerThanTheFileSaysWhichBytesAreMissing) {
  std::vector<uint8_t> bytes = GgufBuilder().F32Tensor("blk.0.attn_q.weight", {64}, 0).Build();
  const size_t begin = bytes.size() - 256;
  bytes.resize(bytes.size() - 1);
  EXPECT_TRUE(Fails(
      ParseGguf(bytes), StatusCode::kInvalidArgument,
      {"model.gguf: tensor 'blk.0.attn_q.weight' needs bytes " + std::to_string(begin) + ".." +
           std::to_string(begin + 256) + " but the file ends at " + std::to_string(begin + 255),
       "cut short", "fetch it again"}));
}

TEST(GgufMalformedTest, ElementTypesThatAreNotSupported) {
  EXPECT_TRUE(Unsupported(GgufBuilder().RawTensor("a.tensor", {256}, 10, 0),
                          {"'a.tensor'", "Q2_K", "F32, F16, BF16, Q4_0, Q4_1"}));
  for (const uint32_t type : {4u, 31u, 99u, UINT32_MAX}) {
    EXPECT_TRUE(Unsupported(GgufBuilder().RawTensor("a.tensor", {256}, type, 0),
                            {"'a.tensor'", "type " + std::to_string(type)}));
  }
}

}  // namespace
}  // namespace penstock
