#include "worker/token_mailbox.h"

#include "tests/support/status_matchers.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr int64_t kVocab = 100;

Tensor Rows(const std::vector<std::array<int64_t, 4>>& rows) {
  Tensor tensor = Make(DataType::kI64, {static_cast<int64_t>(rows.size()), kTokenRowSize});
  std::memcpy(tensor.raw(), rows.data(), static_cast<size_t>(tensor.bytes()));
  return tensor;
}

PlanRow Row(int32_t slot, uint32_t generation, int64_t position, uint64_t token_from) {
  PlanRow row;
  row.slot = slot;
  row.generation = generation;
  row.position = position;
  row.tokens = {kNoToken};
  row.token_from = token_from;
  return row;
}

TEST(TokenMailbox, GivesATokenToTheRowThatItIsForAndToNoOther) {
  TokenMailbox mailbox(4, 3);
  ASSERT_TRUE(IsOk(mailbox.Put(7, 20, Rows({{3, 5, 11, 99}, {0, 1, 2, kVoidToken}}), kVocab)));
  EXPECT_EQ(mailbox.Take(7, Row(3, 5, 11, 20)), 99);
  EXPECT_EQ(mailbox.Take(7, Row(3, 5, 11, 20)), 99) << "as often as it is asked for";
  EXPECT_EQ(mailbox.Take(7, Row(0, 1, 2, 20)), kVoidToken);
  EXPECT_EQ(mailbox.Take(8, Row(3, 5, 11, 20)), kVoidToken) << "another epoch";
  EXPECT_EQ(mailbox.Take(7, Row(3, 6, 11, 20)), kVoidToken) << "another generation";
  EXPECT_EQ(mailbox.Take(7, Row(3, 5, 12, 20)), kVoidToken) << "another position";
  EXPECT_EQ(mailbox.Take(7, Row(2, 5, 11, 20)), kVoidToken) << "another slot";
  EXPECT_EQ(mailbox.Take(7, Row(3, 5, 11, 19)), kVoidToken) << "another plan";
  EXPECT_EQ(mailbox.Take(7, Row(-1, 5, 11, 20)), kVoidToken);
  EXPECT_EQ(mailbox.Take(7, Row(4, 5, 11, 20)), kVoidToken);
}

TEST(TokenMailbox, KeepsAsManyPlansAsItIsDeepAndNothingOfAnEpochBefore) {
  TokenMailbox mailbox(2, 3);
  EXPECT_EQ(mailbox.Take(0, Row(1, 0, 0, 3)), kVoidToken) << "nothing is there";
  for (uint64_t plan = 1; plan <= 5; ++plan) {
    const auto position = static_cast<int64_t>(plan);
    ASSERT_TRUE(IsOk(mailbox.Put(1, plan, Rows({{1, 9, position, 50 + position}}), kVocab)));
  }
  for (uint64_t plan = 3; plan <= 5; ++plan) {
    EXPECT_EQ(mailbox.Take(1, Row(1, 9, static_cast<int64_t>(plan), plan)), 50 + plan);
  }
  EXPECT_EQ(mailbox.Take(1, Row(1, 9, 2, 2)), kVoidToken);
  mailbox.Reset();
  EXPECT_EQ(mailbox.Take(1, Row(1, 9, 5, 5)), kVoidToken);
}

// The rows come from another process.
TEST(TokenMailbox, RefusesWhatNamesNoPlaceOfItOrNoToken) {
  TokenMailbox mailbox(4, 3);
  const std::array<int64_t, 4> sound = {3, 5, 11, 99};
  EXPECT_TRUE(IsOk(mailbox.Put(1, 1, Rows({sound}), kVocab)));
  const std::pair<size_t, int64_t> spoiled[] = {
      {0, -1}, {0, 4},      {0, INT64_MAX}, {1, -1}, {1, int64_t{1} << 32},
      {2, -1}, {3, kVocab}, {3, kNoToken},  {3, -3}, {3, int64_t{1} << 32},
  };
  for (const auto& [field, value] : spoiled) {
    std::array<int64_t, 4> row = sound;
    row[field] = value;
    EXPECT_TRUE(Fails(mailbox.Put(1, 1, Rows({row}), kVocab), absl::StatusCode::kFailedPrecondition,
                      {"tokens of plan 1"}))
        << field << " " << value;
  }
}

}  // namespace
}  // namespace penstock
