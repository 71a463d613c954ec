#include "frontend/loading_display.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

LoadProgress At(int64_t done) { return {done, 200'000'000, "layers.3.mlp.up_proj.weight"}; }

TEST(LoadingDisplayTest, ABarOnATerminal) {
  LoadingDisplay display(/*is_terminal=*/true);
  EXPECT_EQ(display.Update(At(50'000'000), absl::Milliseconds(400)), "");
  EXPECT_EQ(display.Finish(), "");
  EXPECT_EQ(display.Update(At(100'000'000), absl::Milliseconds(600)),
            "\r\x1b[Kloading [###############               ] 50 % of 200 million weights");
  EXPECT_EQ(display.Update(At(200'000'000), absl::Seconds(1)),
            "\r\x1b[Kloading [##############################] 100 % of 200 million weights");
  EXPECT_EQ(display.Finish(), "\r\x1b[K");
  EXPECT_EQ(display.Finish(), "");
}

TEST(LoadingDisplayTest, LinesElsewhere) {
  LoadingDisplay display(/*is_terminal=*/false);
  EXPECT_EQ(display.Update(At(50'000'000), absl::Seconds(1)), "");
  EXPECT_EQ(display.Update(At(70'000'000), absl::Seconds(3)),
            "loading: 35 % of 200 million weights\n");
  EXPECT_EQ(display.Update(At(79'000'000), absl::Seconds(4)), "");
  EXPECT_EQ(display.Update(At(80'000'000), absl::Seconds(5)),
            "loading: 40 % of 200 million weights\n");
  EXPECT_EQ(display.Finish(), "");
}

TEST(LoadingDisplayTest, AModelOfNothingShowsNothing) {
  EXPECT_EQ(LoadingDisplay(true).Update({0, 0, ""}, absl::Seconds(9)), "");
}

}  // namespace
}  // namespace penstock
