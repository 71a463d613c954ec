#include "frontend/trace_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

constexpr const char* kLine = R"({"arrival": 0.5, "prompt": 3, "output": 4, "seed": 5})";

TEST(TraceFileTest, ReadsLinesInTheOrderOfArrival) {
  const auto trace = ParseTrace(
      absl::StrCat(kLine, "\r\n\n  \n", R"({"seed":0,"output":1,"prompt":2,"arrival":0,"x":[]})"),
      "t");
  ASSERT_TRUE(IsOk(trace));
  ASSERT_EQ(trace->size(), 2u);
  EXPECT_EQ((*trace)[0].prompt, 2);
  EXPECT_EQ((*trace)[0].output, 1);
  EXPECT_EQ((*trace)[0].seed, 0);
  EXPECT_EQ((*trace)[1].arrival, 0.5);
  EXPECT_EQ((*trace)[1].prompt, 3);
  EXPECT_EQ((*trace)[1].output, 4);
  EXPECT_EQ((*trace)[1].seed, 5);
}

TEST(TraceFileTest, NamesTheLineThatIsNone) {
  for (const std::string bad :
       {"{", "[]", "null", "1", R"({"prompt":1,"output":1,"seed":1})",
        R"({"arrival":"0","prompt":1,"output":1,"seed":1})",
        R"({"arrival":-1,"prompt":1,"output":1,"seed":1})",
        R"({"arrival":1e300,"prompt":1,"output":1,"seed":1})",
        R"({"arrival":0,"prompt":0,"output":1,"seed":1})",
        R"({"arrival":0,"prompt":1,"output":0,"seed":1})",
        R"({"arrival":0,"prompt":1.5,"output":1,"seed":1})",
        R"({"arrival":0,"prompt":1,"output":1,"seed":-1})",
        R"({"arrival":0,"prompt":1,"output":18446744073709551615,"seed":1})",
        R"({"arrival":0,"prompt":1,"output":1,"seed":1} x)"}) {
    EXPECT_TRUE(Fails(ParseTrace(absl::StrCat(kLine, "\n\n", bad, "\n"), "t.jsonl"),
                      absl::StatusCode::kInvalidArgument, {"t.jsonl, line 3", "trace.py"}))
        << bad;
  }
  EXPECT_TRUE(Fails(ParseTrace("\n \n", "t"), absl::StatusCode::kInvalidArgument, {"no request"}));
}

TEST(TraceFileTest, ReadsFiles) {
  EXPECT_TRUE(Fails(ReadTrace("/nowhere/t"), absl::StatusCode::kNotFound, {"/nowhere/t"}));
  const std::string path = testing::TempDir() + "penstock_trace_file_" + std::to_string(getpid());
  std::ofstream(path) << kLine;
  const auto trace = ReadTrace(path);
  std::filesystem::remove(path);
  ASSERT_TRUE(IsOk(trace));
  EXPECT_EQ(trace->size(), 1u);
}

TEST(TraceFileTest, PromptIdsAreTheTracesRule) {
  // prompt_ids(7, 4, 1000) of tests/bench/trace.py.
  EXPECT_EQ(TracePromptIds(7, 4, 1000), (std::vector<int32_t>{993, 782, 571, 360}));
  for (const int32_t id : TracePromptIds(1 << 30, 2000, 11)) EXPECT_EQ(id, 10);
}

TEST(TraceFileTest, ClipsToLimitsAndContext) {
  const std::vector<TraceRequest> whole = {{0, 100, 50, 1}, {0, 10, 5, 2}, {0, 10, 1000, 3}};
  std::vector<TraceRequest> trace = whole;
  EXPECT_EQ(ClipTrace({.max_prompt = 0, .max_output = 0, .context = 2000}, &trace), 0);
  EXPECT_EQ(ClipTrace({.max_prompt = 20, .max_output = 40, .context = 2000}, &trace), 2);
  EXPECT_EQ(trace[0].prompt, 20);
  EXPECT_EQ(trace[0].output, 40);
  EXPECT_EQ(trace[1].prompt, 10);
  EXPECT_EQ(trace[2].output, 40);
  trace = whole;
  EXPECT_EQ(ClipTrace({.max_prompt = 0, .max_output = 0, .context = 64}, &trace), 2);
  EXPECT_EQ(trace[0].prompt, 14);
  EXPECT_EQ(trace[0].output, 50);
  EXPECT_EQ(trace[2].prompt, 1);
  EXPECT_EQ(trace[2].output, 63);
}

}  // namespace
}  // namespace penstock
