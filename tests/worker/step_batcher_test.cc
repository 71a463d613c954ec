#include "worker/step_batcher.h"

#include "tests/support/status_matchers.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

StepBatcher MakeBatcher() {
  absl::StatusOr<StepBatcher> batcher = StepBatcher::Make({.max_tokens = 32,
                                                           .max_sequences = 4,
                                                           .context_length = 256,
                                                           .num_blocks = 8,
                                                           .vocab_size = 100},
                                                          Allocator());
  PENSTOCK_CHECK(batcher.ok());
  return *std::move(batcher);
}

PlanRow Row(int64_t position, std::vector<int32_t> tokens, std::vector<int32_t> blocks,
            bool sample) {
  PlanRow row;
  row.position = position;
  row.tokens = std::move(tokens);
  row.blocks = std::move(blocks);
  row.sample = sample;
  return row;
}

std::vector<int32_t> Ints(const Tensor& tensor) {
  const auto* data = static_cast<const int32_t*>(tensor.raw());
  return {data, data + tensor.num_elements()};
}

TEST(StepBatcher, RowsOfSeveralTokensComeFirst) {
  StepBatcher batcher = MakeBatcher();
  StepPlan plan;
  plan.rows = {Row(70, {5}, {3, 7}, true), Row(62, {8, 9, 10}, {2, 1}, false),
               Row(0, {11, 12}, {0}, true)};
  const absl::StatusOr<StepBatch> batch = batcher.Build(plan);
  ASSERT_TRUE(IsOk(batch));
  EXPECT_EQ(batch->num_prefill_rows, 2);
  EXPECT_EQ(batch->num_prefill_tokens, 5);
  EXPECT_EQ(Ints(batch->token_ids), (std::vector<int32_t>{8, 9, 10, 11, 12, 5}));
  EXPECT_EQ(Ints(batch->positions), (std::vector<int32_t>{62, 63, 64, 0, 1, 70}));
  EXPECT_EQ(Ints(batch->row_starts), (std::vector<int32_t>{0, 3, 5, 6}));
  EXPECT_EQ(Ints(batch->context_lens), (std::vector<int32_t>{65, 2, 71}));
  ASSERT_EQ(batch->extents.size(), 3u);
  for (size_t r = 0; r < 3; ++r) {
    EXPECT_EQ(batch->extents[r].tokens, (std::vector<int64_t>{3, 2, 1})[r]);
    EXPECT_EQ(batch->extents[r].context, (std::vector<int64_t>{65, 2, 71})[r]);
  }
  EXPECT_EQ(Ints(batch->sample_tokens), (std::vector<int32_t>{4, 5}));
  const auto* slots = static_cast<const int64_t*>(batch->kv_slots.raw());
  EXPECT_EQ(std::vector<int64_t>(slots, slots + 6),
            (std::vector<int64_t>{2 * 64 + 62, 2 * 64 + 63, 64, 0, 1, 7 * 64 + 6}));
  EXPECT_EQ(batcher.sampled(), (std::vector<const PlanRow*>{&plan.rows[2], &plan.rows[0]}));
}

std::vector<std::vector<int32_t>> Used(const StepBatcher& batcher) {
  std::vector<std::vector<int32_t>> used;
  for (const Tensor& part : batcher.used()) {
    if (part.type() != DataType::kI32) continue;
    if (part.rank() == 1) {
      used.push_back(Ints(part));
      continue;
    }
    for (int64_t r = 0; r < part.dim(0); ++r) {
      const auto* row = static_cast<const int32_t*>(part.raw()) + r * part.stride(0);
      used.emplace_back(row, row + part.dim(1));
    }
  }
  return used;
}

// Up to the next size, with rows that have no context; steps with a prompt and those beyond all
// sizes stay as they are.
TEST(StepBatcher, StepsThatOnlyDecodeArePadded) {
  StepBatcher batcher = MakeBatcher();
  batcher.PadDecodes({1, 3});
  StepPlan plan;
  plan.rows = {Row(70, {5}, {3, 7}, true), Row(6, {8}, {2}, false)};
  absl::StatusOr<StepBatch> batch = batcher.Build(plan);
  ASSERT_TRUE(IsOk(batch));
  EXPECT_TRUE(batcher.is_padded());
  EXPECT_EQ(batch->num_rows(), 3);
  EXPECT_EQ(batch->num_prefill_rows, 0);
  EXPECT_EQ(batch->num_prefill_tokens, 0);
  EXPECT_EQ(Ints(batch->token_ids), (std::vector<int32_t>{5, 8, 0}));
  EXPECT_EQ(Ints(batch->positions), (std::vector<int32_t>{70, 6, 0}));
  EXPECT_EQ(Ints(batch->row_starts), (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(Ints(batch->context_lens), (std::vector<int32_t>{71, 7, 0}));
  EXPECT_EQ(Ints(batch->sample_tokens), (std::vector<int32_t>{0, 0, 0}));
  EXPECT_EQ(batcher.sampled(), (std::vector<const PlanRow*>{&plan.rows[0]}));
  EXPECT_EQ(batch->extents.size(), 3u);
  EXPECT_EQ(Used(batcher)[0], Ints(batch->row_starts));
  EXPECT_EQ(Used(batcher)[4], (std::vector<int32_t>{3, 7}));  // block tables, as wide as they are

  plan.rows.pop_back();
  batch = batcher.Build(plan);
  ASSERT_TRUE(IsOk(batch));
  EXPECT_TRUE(batcher.is_padded());
  EXPECT_EQ(batch->num_rows(), 1);

  plan.rows = {Row(6, {8}, {2}, true), Row(0, {11, 12}, {0}, true)};
  batch = batcher.Build(plan);
  ASSERT_TRUE(IsOk(batch));
  EXPECT_FALSE(batcher.is_padded());
  EXPECT_EQ(batch->num_rows(), 2);
  EXPECT_EQ(Ints(batch->sample_tokens), (std::vector<int32_t>{1, 2}));

  plan.rows.assign(4, Row(6, {8}, {2}, true));
  batch = batcher.Build(plan);
  ASSERT_TRUE(IsOk(batch));
  EXPECT_FALSE(batcher.is_padded());
  EXPECT_EQ(batch->num_rows(), 4);
}

TEST(StepBatcher, NothingSampledLeavesNoSampleTokens) {
  StepBatcher batcher = MakeBatcher();
  StepPlan plan;
  plan.rows = {Row(0, {1, 2}, {0}, false)};
  const absl::StatusOr<StepBatch> batch = batcher.Build(plan);
  ASSERT_TRUE(IsOk(batch));
  EXPECT_TRUE(batch->sample_tokens.empty());
}

// What the mailbox gives is fed in its place; a void row keeps its place, feeds 0 and is not
// sampled.
TEST(StepBatcher, RowsFeedWhatTheMailboxGives) {
  StepBatcher batcher = MakeBatcher();
  StepPlan plan;
  plan.number = 9;
  plan.rows = {Row(70, {kNoToken}, {3, 7}, true), Row(5, {kNoToken}, {2}, true),
               Row(0, {11, 12}, {0}, true), Row(6, {13}, {1}, true)};
  plan.rows[0].token_from = 8;
  plan.rows[1].token_from = 7;
  const std::vector<int32_t> fed = {99, kVoidToken, kNoToken, kNoToken};
  const absl::StatusOr<StepBatch> batch = batcher.Build(plan, fed);
  ASSERT_TRUE(IsOk(batch));
  EXPECT_EQ(Ints(batch->token_ids), (std::vector<int32_t>{11, 12, 99, 0, 13}));
  EXPECT_EQ(Ints(batch->positions), (std::vector<int32_t>{0, 1, 70, 5, 6}));
  EXPECT_EQ(Ints(batch->sample_tokens), (std::vector<int32_t>{1, 2, 4}));
  EXPECT_EQ(batcher.sampled(),
            (std::vector<const PlanRow*>{&plan.rows[2], &plan.rows[0], &plan.rows[3]}));
  EXPECT_EQ(batcher.voids(), (std::vector<const PlanRow*>{&plan.rows[1]}));

  // A stage that is neither end runs the same batch without knowing.
  StepBatcher middle = MakeBatcher();
  const absl::StatusOr<StepBatch> blind = middle.Build(plan);
  ASSERT_TRUE(IsOk(blind));
  EXPECT_EQ(Ints(blind->positions), Ints(batch->positions));
  EXPECT_EQ(Ints(blind->row_starts), Ints(batch->row_starts));
  EXPECT_EQ(Ints(blind->context_lens), Ints(batch->context_lens));
  EXPECT_EQ(blind->num_prefill_rows, batch->num_prefill_rows);
  EXPECT_TRUE(middle.voids().empty());
}

TEST(StepBatcher, RefusesWhatWouldLeaveItsBounds) {
  const std::vector<std::pair<PlanRow, std::string_view>> cases = {
      {Row(0, {}, {0}, true), "feeds no token"},
      {Row(-1, {1}, {0}, true), "beyond the context"},
      {Row(256, {1}, {0, 1, 2, 3, 4}, true), "beyond the context"},
      {Row(255, {1, 2}, {0, 1, 2, 3, 4}, true), "beyond the context"},
      {Row(INT64_MAX, {1}, {0}, true), "beyond the context"},
      {Row(64, {1}, {0}, true), "has 1 KV blocks but needs 2"},
      {Row(0, {1}, {8}, true), "KV block 8 of 8"},
      {Row(0, {1}, {-1}, true), "KV block -1"},
      {Row(0, {100}, {0}, true), "token 100 of a vocabulary of 100"},
      {Row(0, {-1}, {0}, true), "token -1"},
      {Row(0, std::vector<int32_t>(33, 1), {0}, true), "33 tokens; this stage takes 32"},
  };
  for (const auto& [row, words] : cases) {
    StepBatcher batcher = MakeBatcher();
    StepPlan plan;
    plan.rows = {row};
    EXPECT_TRUE(Fails(batcher.Build(plan), absl::StatusCode::kFailedPrecondition, {words}));
  }
  StepBatcher batcher = MakeBatcher();
  StepPlan plan;
  EXPECT_TRUE(Fails(batcher.Build(plan), absl::StatusCode::kFailedPrecondition, {"0 rows"}));
  plan.rows.assign(5, Row(0, {1}, {0}, true));
  EXPECT_TRUE(Fails(batcher.Build(plan), absl::StatusCode::kFailedPrecondition, {"5 rows"}));
}

}  // namespace
}  // namespace penstock
