// The table of tuned products: what is written is read again, what is not a table is refused.
#include "core/io/gemm_table.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using Code = absl::StatusCode;

GemmTable Example() {
  GemmTable table;
  table.gpu = "NVIDIA H200";
  table.library_version = 130100;
  const GemmShape shape = {DataType::kBF16, DataType::kF32, 4096, 32000, 64};
  table.products[shape] = {{66, 600, 2, 2, 0, 0, 36, 1, 3}, 31.5, 35.25};
  GemmShape more = shape;
  more.tokens = 256;
  table.products[more] = {{66, 601, -1, 0, 1, 5, 37, 0, 9}, 64, 64};
  return table;
}

class GemmTableFile : public ::testing::Test {
 protected:
  GemmTableFile()
      : folder_(std::filesystem::temp_directory_path() / absl::StrCat("penstock-gemm-", getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~GemmTableFile() override { std::filesystem::remove_all(folder_); }

  const std::filesystem::path folder_;
};

TEST_F(GemmTableFile, ComesBackAsItWasWritten) {
  const std::string path = folder_ / "new/folder/table.json";
  ASSERT_TRUE(WriteGemmTable(path, Example()).ok());
  const auto read = ReadGemmTable(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, Example());
  EXPECT_EQ(GemmTableHash(*read), GemmTableHash(Example()));
  GemmTable other = Example();
  other.products.begin()->second.algorithm[1] = 601;
  EXPECT_NE(GemmTableHash(other), GemmTableHash(Example()));
  // No file of the writing is left behind.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_ / "new/folder"),
                          std::filesystem::directory_iterator()),
            1);
}

TEST_F(GemmTableFile, TellsWhatIsWrongWithAFile) {
  EXPECT_EQ(ReadGemmTable(folder_ / "none.json").status().code(), Code::kNotFound);
  const absl::Status written = WriteGemmTable("/proc/no/table.json", Example());
  EXPECT_EQ(written.code(), Code::kInvalidArgument);
  EXPECT_NE(written.message().find("--gemm-table"), absl::string_view::npos);
}

TEST(GemmTable, TakesTheNextLargerNumberOfTokens) {
  const GemmTable table = Example();
  GemmShape shape = table.products.begin()->first;
  const auto tile = [&](int64_t tokens) {
    shape.tokens = tokens;
    const TunedGemm* found = table.Find(shape);
    return found == nullptr ? -1 : found->algorithm[1];
  };
  EXPECT_EQ(tile(64), 600);
  EXPECT_EQ(tile(32), 600);
  EXPECT_EQ(tile(31), -1);  // more than twice as many
  EXPECT_EQ(tile(127), -1);
  EXPECT_EQ(tile(128), 601);
  EXPECT_EQ(tile(256), 601);
  EXPECT_EQ(tile(257), -1);
  shape.out_type = DataType::kBF16;
  EXPECT_EQ(tile(64), -1);
  shape = table.products.begin()->first;
  shape.in_features = 4095;
  EXPECT_EQ(tile(64), -1);
  shape.in_features = 4096;
  shape.out_features = 31999;
  EXPECT_EQ(tile(64), -1);
}

TEST(GemmTable, RefusesWhatIsNoTable) {
  const std::string good = GemmTableJson(Example());
  ASSERT_TRUE(ParseGemmTable("t.json", good).ok());
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, text.npos) << from;
    return text.replace(at, from.size(), to);
  };
  const struct {
    std::string text;
    const char* place;
  } cases[] = {
      {"", "t.json"},
      {"[]", "t.json"},
      {good.substr(0, good.size() / 2), "t.json"},
      {with("\"NVIDIA H200\"", "\"\""), "gpu"},
      {with("\"NVIDIA H200\"", "7"), "gpu"},
      {with("130100", "-1"), "cublaslt"},
      {with("\"bf16\"", "\"q4_0\""), "products[0].type"},
      {with("\"f32\"", "\"i32\""), "products[0].out_type"},
      {with("\"tokens\": 64", "\"tokens\": 0"), "products[0].tokens"},
      {with("\"in\": 4096", "\"in\": 1.5"), "products[0].in"},
      {with("\"out\": 32000", "\"out\": 99999999999"), "products[0].out"},
      {with("[66, 600", "[66, 66, 600"), "products[0].algorithm"},
      {with("[66, 600", "[-1, 600"), "products[0].algorithm[0]"},
      {with("66, 600, 2,", "66, 600, -2,"), "products[0].algorithm[2]"},
      {with("36, 1, 3]", "36, 1, 65536]"), "products[0].algorithm[8]"},
      {with("\"us\": 31.50", "\"us\": 0"), "products[0].us"},
      {with("\"us\": 31.50, ", ""), "us"},
      {with("\"tokens\": 256", "\"tokens\": 64"), "products[1]"},
  };
  for (const auto& [text, place] : cases) {
    const auto table = ParseGemmTable("t.json", text);
    ASSERT_EQ(table.status().code(), Code::kInvalidArgument) << text;
    EXPECT_NE(table.status().message().find("t.json"), absl::string_view::npos) << table.status();
    EXPECT_NE(table.status().message().find(place), absl::string_view::npos) << table.status();
  }
  const auto format = ParseGemmTable("t.json", with("\"format\": 1", "\"format\": 2"));
  EXPECT_EQ(format.status().code(), Code::kUnimplemented);
  EXPECT_NE(format.status().message().find("penstock tune"), absl::string_view::npos);
}

TEST(GemmTable, LiesInTheCacheFolder) {
  setenv("XDG_CACHE_HOME", "/cache", 1);
  EXPECT_EQ(DefaultGemmTablePath("NVIDIA H100 80GB HBM3"),
            "/cache/penstock/gemm-NVIDIA-H100-80GB-HBM3.json");
  unsetenv("XDG_CACHE_HOME");
  setenv("HOME", "/home/me", 1);
  EXPECT_EQ(DefaultGemmTablePath("../x"), "/home/me/.cache/penstock/gemm----x.json");
  unsetenv("HOME");
  EXPECT_EQ(DefaultGemmTablePath("x"), "");
}

}  // namespace
}  // namespace penstock
