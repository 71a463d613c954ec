#include "core/kernels/bias_rope.h"

#include "core/kernels/rebuild_padding.h"
#include "tests/support/padded_rows.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void CheckAgainstFloat64(const HeadLayout& heads, bool with_bias) {
  const int64_t tokens = 21;
  const int64_t context = 1000;
  const float theta = 10000.0f;
  const Tensor table = Poisoned({context, heads.head_dim});
  cpu::FillRopeTable(theta, table);
  const Tensor qkv = Random({tokens, heads.width()}, 5);
  const Tensor bias = with_bias ? Random({heads.width()}, 6) : Tensor();
  const std::vector<float> before = ToVector(qkv);
  const std::vector<float> shift =
      with_bias ? ToVector(bias) : std::vector<float>(static_cast<size_t>(heads.width()), 0.0f);
  std::vector<int32_t> positions;
  for (int32_t t = 0; t < tokens; ++t) positions.push_back(t * 47);
  cpu::BiasRope(Pool(), qkv, bias, FromVector(positions), table, heads);

  const auto half = static_cast<size_t>(heads.head_dim / 2);
  std::vector<double> reference;
  for (size_t t = 0; t < tokens; ++t) {
    std::vector<double> row;
    for (size_t i = 0; i < static_cast<size_t>(heads.width()); ++i) {
      row.push_back(static_cast<double>(before[t * static_cast<size_t>(heads.width()) + i]) +
                    shift[i]);
    }
    for (size_t head = 0; head < static_cast<size_t>(heads.num_heads + heads.num_kv_heads);
         ++head) {
      for (size_t i = 0; i < half; ++i) {
        const double frequency =
            std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(heads.head_dim));
        const double angle = positions[t] * frequency;
        double& a = row[head * 2 * half + i];
        double& b = row[head * 2 * half + half + i];
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = turned;
      }
    }
    reference.insert(reference.end(), row.begin(), row.end());
  }
  // Angles are rounded to float32, as Hugging Face's are: position * 2^-24 of a radian.
  EXPECT_LE(RelativeError(qkv, reference), 5e-5);
}

TEST(BiasRope, MatchesFloat64) {
  CheckAgainstFloat64({9, 3, 64}, false);
  CheckAgainstFloat64({4, 4, 96}, false);
  CheckAgainstFloat64({8, 1, 128}, false);
  CheckAgainstFloat64({1, 1, 2}, false);
}

TEST(BiasRope, MatchesFloat64WithBias) { CheckAgainstFloat64({9, 3, 64}, true); }

TEST(BiasRope, PositionZeroTurnsNothing) {
  const HeadLayout heads{2, 1, 8};
  const Tensor table = Poisoned({4, 8});
  cpu::FillRopeTable(10000.0f, table);
  const Tensor qkv = Random({1, heads.width()}, 9);
  const std::vector<float> before = ToVector(qkv);
  std::vector<int32_t> positions = {0};
  cpu::BiasRope(Pool(), qkv, Tensor(), FromVector(positions), table, heads);
  EXPECT_EQ(ToVector(qkv), before);
}

// The fused form is bias_rope, then rebuild_padding of the queries: the same bits.
TEST(BiasRope, PaddedFormGivesTheSameBits) {
  for (const HeadLayout& heads : {HeadLayout{9, 3, 64}, HeadLayout{4, 4, 6}, HeadLayout{5, 1, 8}}) {
    for (const Tensor& bias : {Tensor(), Random({heads.width()}, 6)}) {
      std::vector<int32_t> starts = RowStarts(kRowLengths, 13);
      const int64_t tokens = starts.back() - 13;
      const auto rows = static_cast<int64_t>(kRowLengths.size());
      std::vector<int32_t> positions;
      for (int32_t t = 0; t < tokens; ++t) positions.push_back((t * 29) % 200);
      const Tensor table = Poisoned({200, heads.head_dim});
      cpu::FillRopeTable(10000.0f, table);

      const Tensor plain = Random({tokens, heads.width()}, 7);
      cpu::BiasRope(Pool(), plain, bias, FromVector(positions), table, heads);
      const Tensor queries = Make(DataType::kF32, {tokens, heads.q_size()});
      for (int64_t t = 0; t < tokens; ++t) {
        const auto* row = static_cast<const float*>(plain.raw()) + t * heads.width();
        std::copy_n(row, heads.q_size(),
                    static_cast<float*>(Tensor(queries).raw()) + t * heads.q_size());
      }
      const Shape shape({rows, heads.num_heads, Longest(kRowLengths) + 1, heads.head_dim});
      const Tensor expected = Poisoned(shape);
      cpu::RebuildPadding(Pool(), queries, FromVector(starts), expected);

      const Tensor qkv = Random({tokens, heads.width()}, 7);
      const std::vector<float> before = ToVector(qkv);
      const Tensor padded = Poisoned(shape);
      cpu::BiasRopePadded(Pool(), qkv, bias, FromVector(positions), table, FromVector(starts),
                          heads, padded);
      EXPECT_EQ(ToVector(padded), ToVector(expected));
      const std::vector<float> after = ToVector(qkv);
      const std::vector<float> turned = ToVector(plain);
      for (int64_t at = 0; at < tokens * heads.width(); ++at) {
        const bool is_query = at % heads.width() < heads.q_size();
        const auto i = static_cast<size_t>(at);
        ASSERT_EQ(after[i], is_query ? before[i] : turned[i]) << at;
      }
    }
  }
}

TEST(BiasRopeDeathTest, RefusesAPositionBeyondTheTable) {
  const HeadLayout heads{1, 1, 4};
  const Tensor table = Poisoned({4, 4});
  cpu::FillRopeTable(10000.0f, table);
  const Tensor qkv = Random({1, heads.width()}, 9);
  std::vector<int32_t> positions = {4};
  EXPECT_DEATH(cpu::BiasRope(Pool(), qkv, Tensor(), FromVector(positions), table, heads),
               "position\\[t\\] < rope_table.dim\\(0\\)");
}

}  // namespace
}  // namespace penstock
