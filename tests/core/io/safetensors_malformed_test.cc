// safetensors files that are wrong: each gets an error that names the file and the place, and none
// makes the parser read outside the file or allocate more than a file of that size can need.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/io/safetensors.h"
#include "tests/support/safetensors_builder.h"
#include "tests/support/status_matchers.h"

namespace penstock::testing {
namespace {

using absl::StatusCode;

// Sizes that wrap, or change their sign, in careless arithmetic.
constexpr uint64_t kEvilSizes[] = {
    uint64_t{1} << 31, (uint64_t{1} << 32) - 1, uint64_t{1} << 32,       (uint64_t{1} << 32) + 1,
    uint64_t{1} << 61, uint64_t{1} << 62,       (uint64_t{1} << 63) - 8, (uint64_t{1} << 63) - 1,
    uint64_t{1} << 63, (uint64_t{1} << 63) + 8, UINT64_MAX - 7,          UINT64_MAX - 3,
    UINT64_MAX,
};

::testing::AssertionResult Invalid(const std::vector<uint8_t>& bytes,
                                   std::initializer_list<std::string_view> words) {
  const auto file = ParseSafetensors(bytes);
  if (auto named = Fails(file, StatusCode::kInvalidArgument, {"model.safetensors"}); !named) {
    return named;
  }
  return Fails(file, StatusCode::kInvalidArgument, words);
}

// One entry with eight bytes of data.
::testing::AssertionResult InvalidEntry(std::string_view json,
                                        std::initializer_list<std::string_view> words) {
  return Invalid(SafetensorsBuilder().Entry("a", json).Data({1, 2, 3, 4, 5, 6, 7, 8}).Build(),
                 words);
}

std::vector<uint8_t> Small() {
  return SafetensorsBuilder()
      .Entry("__metadata__", R"({"format":"pt"})")
      .F32("model.norm.weight", {16}, 1.0f)
      .F32("lm_head.weight", {4, 16}, 1.0f)
      .Build();
}

TEST(SafetensorsMalformedTest, TruncationAtEveryByte) {
  const std::vector<uint8_t> whole = Small();
  ASSERT_TRUE(IsOk(ParseSafetensors(whole)));
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_TRUE(Invalid({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)},
                        {"fetch it again"}))
        << size;
  }
}

TEST(SafetensorsMalformedTest, AnyOneByteChangedIsAnErrorOrAValidFile) {
  const std::vector<uint8_t> whole = Small();
  for (size_t at = 0; at < whole.size() - 320; ++at) {
    for (const uint8_t flip : {0x01, 0x10, 0x80, 0xff}) {
      std::vector<uint8_t> bytes = whole;
      bytes[at] ^= flip;
      const auto file = ParseSafetensors(bytes);
      if (!file.ok()) continue;
      for (const std::string_view name : (*file)->TensorNames()) {
        const auto tensor = (*file)->GetTensor(name);
        if (!tensor.ok()) continue;
        const auto* data = static_cast<const uint8_t*>(tensor->raw());
        int sum = 0;
        for (int64_t i = 0; i < tensor->bytes(); ++i) sum += data[i];
        EXPECT_GE(sum, 0);
      }
    }
  }
}

TEST(SafetensorsMalformedTest, HeaderLengthsThatAreNoLength) {
  const std::string header = "{}      ";
  for (const uint64_t length : kEvilSizes) {
    EXPECT_TRUE(Invalid(SafetensorsBuilder::Raw(length, header),
                        {"header has " + std::to_string(length), "2 to 100000000"}));
  }
  for (const uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{100'000'001}}) {
    EXPECT_TRUE(Invalid(SafetensorsBuilder::Raw(length, header), {"2 to 100000000"}));
  }
  for (const uint64_t length : {uint64_t{9}, uint64_t{100'000'000}}) {
    EXPECT_TRUE(Invalid(SafetensorsBuilder::Raw(length, header),
                        {"the header needs bytes 8..", "the file ends at 16"}));
  }
  EXPECT_TRUE(Invalid({}, {"is not a safetensors file", "has 0 bytes"}));
}

TEST(SafetensorsMalformedTest, HeadersThatAreNotWhatIsExpected) {
  const auto header = [](std::string_view text) {
    return SafetensorsBuilder::Raw(text.size(), text);
  };
  EXPECT_TRUE(Invalid(header("no json!"), {"(header): is not JSON, at byte"}));
  EXPECT_TRUE(Invalid(header("[1, 2]  "), {"the document is an array of 2; an object"}));
  EXPECT_TRUE(Invalid(header("{\"a\": 1}"), {"a is 1; an object is expected"}));
  EXPECT_TRUE(Invalid(header(R"({"__metadata__": 1})"), {"__metadata__ is 1; an object"}));
  EXPECT_TRUE(Invalid(header(std::string(100000, '[')), {"nest more than 64 deep"}));
  std::string bomb;
  for (int i = 0; i < 30000; ++i) bomb += "{\"a\":";
  EXPECT_TRUE(Invalid(header(bomb), {"nest more than 64 deep"}));
}

TEST(SafetensorsMalformedTest, MembersOfATensorThatAreMissingOrOfAnotherKind) {
  EXPECT_TRUE(InvalidEntry(R"({"shape":[2],"data_offsets":[0,8]})", {"there is no 'dtype' in a"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","data_offsets":[0,8]})", {"there is no 'shape'"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","shape":[2]})", {"there is no 'data_offsets'"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":4,"shape":[2],"data_offsets":[0,8]})", {"a.dtype is 4"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})",
                           {"a.shape is 2; an array is expected"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","shape":["2"],"data_offsets":[0,8]})",
                           {"a.shape[0] is '2'; an integer"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4,8]})",
                           {"a.data_offsets is an array of 3; an array of two"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","shape":[2],"data_offsets":8})",
                           {"a.data_offsets is 8; an array of two"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8.0]})",
                           {"a.data_offsets[1] is 8; an integer"}));
}

TEST(SafetensorsMalformedTest, ElementTypesThatAreNotKnown) {
  SafetensorsBuilder builder;
  builder.Entry("a", R"({"dtype":"F4\u001b","shape":[2],"data_offsets":[0,1]})").Data({1});
  EXPECT_TRUE(Fails(ParseSafetensors(builder.Build()), StatusCode::kUnimplemented,
                    {"model.safetensors: tensor 'a'", "'F4\\x1b'", "F32, F16 and BF16"}));
}

TEST(SafetensorsMalformedTest, DimensionsThatAreZeroOrWrap) {
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","shape":[2,0],"data_offsets":[0,0]})",
                           {"a.shape[1] is 0; a size of 1 or more"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})",
                           {"a.shape[0] is -2; a size of 1 or more"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"U8","shape":[1,1,1,1,1,1,8],"data_offsets":[0,8]})",
                           {"a.shape is an array of 7; one of at most 6"}));
  for (const uint64_t size : kEvilSizes) {
    for (const std::string_view type : {"F32", "BF16", "U8"}) {
      for (const std::string& shape :
           {absl::StrCat(size), absl::StrCat(size, ",", size), absl::StrCat("2,", size),
            absl::StrCat(size, ",2,", size), absl::StrCat(size, ",", size, ",", size, ",", size)}) {
        EXPECT_TRUE(InvalidEntry(absl::StrCat(R"({"dtype":")", Abs(type), R"(","shape":[)", shape,
                                              R"(],"data_offsets":[0,8]})"),
                                 {}))
            << shape;
      }
    }
  }
  // 2^32 * 2^32 wraps to 0 elements; (2^61 + 1) * 8 to 8 bytes.
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]})",
                           {"tensor 'a'", "too large"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F64","shape":[2305843009213693953],"data_offsets":[0,8]})",
                           {"too large"}));
}

TEST(SafetensorsMalformedTest, OffsetsThatWrapOrPointBeyondTheFile) {
  for (const uint64_t size : kEvilSizes) {
    EXPECT_TRUE(InvalidEntry(
        absl::StrCat(R"({"dtype":"F32","shape":[2],"data_offsets":[0,)", size, "]}"), {}));
    EXPECT_TRUE(InvalidEntry(
        absl::StrCat(R"({"dtype":"F32","shape":[2],"data_offsets":[)", size, ",", size, "]}"), {}));
    EXPECT_TRUE(InvalidEntry(absl::StrCat(R"({"dtype":"F32","shape":[2],"data_offsets":[)", size,
                                          ",", static_cast<uint64_t>(size + 8), "]}"),
                             {}));
  }
  EXPECT_TRUE(InvalidEntry(
      R"({"dtype":"F32","shape":[3],"data_offsets":[0,12]})",
      {"tensor 'a' needs bytes 0..12 of the data, which has 8", "cut short", "fetch it again"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})",
                           {"tensor 'a' has the data_offsets [8, 0]"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})", {"[-8, 0]"}));
}

TEST(SafetensorsMalformedTest, SizesThatDisagreeWithTheShape) {
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})",
                           {"tensor 'a'", "8 bytes; its shape [1] of F32 takes 4"}));
  EXPECT_TRUE(InvalidEntry(R"({"dtype":"F64","shape":[2],"data_offsets":[0,8]})",
                           {"its shape [2] of F64 takes 16"}));
}

TEST(SafetensorsMalformedTest, TensorsThatOverlap) {
  SafetensorsBuilder builder;
  builder.F32("a", {4}, 0).Entry("b", R"({"dtype":"F32","shape":[2],"data_offsets":[8,16]})");
  EXPECT_TRUE(Invalid(builder.Build(), {"tensor 'b' begins at byte 8 of the data, inside tensor "
                                        "'a', which ends at 16"}));
  SafetensorsBuilder same;
  same.F32("a", {4}, 0).Entry("b", R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})");
  EXPECT_TRUE(Invalid(same.Build(), {"must not overlap"}));
}

TEST(SafetensorsMalformedTest, BytesThatBelongToNoTensor) {
  SafetensorsBuilder hole;
  hole.Entry("a", R"({"dtype":"U8","shape":[2],"data_offsets":[2,4]})").Data({1, 2, 3, 4});
  EXPECT_TRUE(Invalid(hole.Build(), {"bytes 0..2 of the data, before tensor 'a'"}));
  SafetensorsBuilder tail;
  tail.F32("a", {1}, 0).Data({1, 2, 3});
  EXPECT_TRUE(Invalid(tail.Build(), {"3 bytes at the end belong to no tensor"}));
}

TEST(SafetensorsMalformedTest, DuplicateTensors) {
  EXPECT_TRUE(Invalid(SafetensorsBuilder().F32("a", {1}, 0).F32("a", {1}, 0).Build(),
                      {"the key 'a' is there twice"}));
}

TEST(SafetensorsMalformedTest, UnprintableNamesAreEscaped) {
  SafetensorsBuilder builder;
  builder.Entry("\\u001b]0;t\\u0007", R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})");
  EXPECT_TRUE(Invalid(builder.Data({1, 2, 3, 4}).Build(), {"\\x1b]0;t\\x07"}));
}

}  // namespace
}  // namespace penstock::testing
