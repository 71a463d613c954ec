// The check file beside a model, and loading held against it.
#include "core/io/check_file.h"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/base/hash64.h"
#include "core/io/dummy_weights.h"
#include "core/io/watched_source.h"
#include "core/model/llama/llama_weight.h"
#include "core/model/model_tensors.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

using Code = absl::StatusCode;

ModelConfig SmallConfig(bool tied) {
  ModelConfig config;
  config.architecture = "llama";
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 50;
  config.context_length = 64;
  config.tied_embeddings = tied;
  return config;
}

class CheckFileTest : public ::testing::Test {
 protected:
  CheckFileTest()
      : folder_(std::filesystem::temp_directory_path() / absl::StrCat("penstock-check-", getpid())),
        path_(folder_ / "model.check.json") {
    std::filesystem::create_directories(folder_);
  }
  ~CheckFileTest() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<ModelCheck> Read(const std::string& text) {
    std::ofstream(path_) << text;
    return ReadModelCheck(path_);
  }

  const std::filesystem::path folder_;
  const std::string path_;
};

TEST_F(CheckFileTest, LiesBesideTheModel) {
  EXPECT_EQ(CheckFilePath("a/model.gguf"), "a/model.gguf.check.json");
  EXPECT_EQ(CheckFilePath("a/folder//"), "a/folder.check.json");
  EXPECT_EQ(CheckFilePath("/"), "/.check.json");
}

TEST_F(CheckFileTest, ComesBackAsItWasWritten) {
  ModelCheck check;
  check.prompt_ids = {1, 2, 3};
  check.ids = {4};
  check.tensors = {{"norm.weight", 0x0123456789abcdef}, {"embed_tokens.weight", 1}};
  ASSERT_TRUE(IsOk(WriteModelCheck(path_, check)));
  const auto read = ReadModelCheck(path_);
  ASSERT_TRUE(IsOk(read));
  EXPECT_EQ(read->precision, "f32");
  EXPECT_EQ(read->backend, "cpu");
  EXPECT_EQ(read->prompt_ids, check.prompt_ids);
  EXPECT_EQ(read->ids, check.ids);
  EXPECT_EQ(read->tensors, check.tensors);
  EXPECT_TRUE(Fails(WriteModelCheck(folder_ / "missing" / "x.check.json", check),
                    Code::kInvalidArgument, {"x.check.json", "writable"}));
}

TEST_F(CheckFileTest, RefusesWhatNoWriterWrote) {
  const auto with = [](const std::string& ids, const std::string& hash) {
    return absl::StrCat(R"({"format":1,"precision":"f32","backend":"cpu","prompt_ids":[1],"ids":)",
                        ids, R"(,"tensors":{"norm.weight":)", hash, "}}");
  };
  EXPECT_TRUE(IsOk(Read(with("[1]", "\"0123456789abcdef\""))));
  for (const char* hash : {"5", "\"\"", "\"0123456789abcde\"", "\"0x23456789abcdef\"",
                           "\"0123456789abcdeg\"", "\"-123456789abcdef\"", "null"}) {
    EXPECT_TRUE(
        Fails(Read(with("[1]", hash)), Code::kInvalidArgument, {"model.check.json", "norm.weight"}))
        << hash;
  }
  for (const char* ids : {"[]", "[-1]", "[16777216]", "[1.5]", "\"1\"", "{}"}) {
    EXPECT_TRUE(Fails(Read(with(ids, "\"0123456789abcdef\"")), Code::kInvalidArgument,
                      {"model.check.json", "ids"}))
        << ids;
  }
  EXPECT_TRUE(Fails(Read("{}"), Code::kInvalidArgument, {"model.check.json", "format"}));
  EXPECT_TRUE(Fails(Read("[]"), Code::kInvalidArgument, {"model.check.json"}));
  EXPECT_TRUE(Fails(Read("{\"format\": 2}"), Code::kUnimplemented, {"--write-check"}));
  EXPECT_TRUE(Fails(ReadModelCheck(folder_ / "none"), Code::kNotFound, {"none"}));
}

TEST(WatchedSourceTest, TellsEveryTensorOfAModelOnce) {
  for (const bool tied : {false, true}) {
    const ModelConfig config = SmallConfig(tied);
    const auto source = MakeDummyWeightSource(1, config, DataType::kF32, Allocator());
    std::vector<std::string> names;
    int64_t last = -1;
    const WatchedSource watched(*source, nullptr, [&](std::string_view name, int64_t done) {
      EXPECT_GT(done, last);
      last = done;
      names.emplace_back(name);
    });
    LlamaWeight weight({0, config.num_layers});
    ASSERT_TRUE(IsOk(weight.Load({watched, config, Allocator()}, "")));
    std::vector<std::string> expected;
    for (const ModelTensor& tensor : ModelTensors(config)) expected.push_back(tensor.name);
    std::sort(names.begin(), names.end());
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(names, expected);
    EXPECT_LT(last, NumParameters(config));
  }
}

TEST(WatchedSourceTest, OtherBytesThanThoseOfTheCheckFileAreRefused) {
  const ModelConfig config = SmallConfig(false);
  const auto source = MakeDummyWeightSource(1, config, DataType::kF32, Allocator());
  auto hashes = HashTensors(*source, config).value();
  EXPECT_EQ(hashes.size(), ModelTensors(config).size());
  const auto load = [&](const WeightSource& from) {
    const WatchedSource watched(from, &hashes, nullptr);
    return LlamaWeight({0, config.num_layers}).Load({watched, config, Allocator()}, "");
  };
  EXPECT_TRUE(IsOk(load(*source)));
  EXPECT_TRUE(Fails(load(*MakeDummyWeightSource(2, config, DataType::kF32, Allocator())),
                    Code::kDataLoss, {"embed_tokens.weight", "damaged", "fetch it again"}));
  ++hashes["layers.1.mlp.down_proj.weight"];
  EXPECT_TRUE(Fails(load(*source), Code::kDataLoss, {"layers.1.mlp.down_proj.weight"}));
  hashes.erase("norm.weight");
  --hashes["layers.1.mlp.down_proj.weight"];
  EXPECT_TRUE(Fails(load(*source), Code::kNotFound, {"norm.weight", "--write-check"}));
}

}  // namespace
}  // namespace penstock
