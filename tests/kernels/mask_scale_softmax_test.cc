#include "core/kernels/mask_scale_softmax.h"

#include "tests/support/backends.h"
#include "tests/support/padded_rows.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& scores, const Tensor& mask, float scale) {
  if (backend == Backend::kCpu) return cpu::MaskScaleSoftmax(Pool(), scores, mask, scale);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchMaskScaleSoftmax(gpu.stream(), gpu.Out(scores), gpu.In(mask), scale);
  }
}

// Random bits; query 2 of every row sees nothing.
Tensor RandomMask(int64_t rows, int64_t max_q, int64_t max_k) {
  Tensor mask = Make(DataType::kU8, {rows, max_q, max_k});
  std::mt19937 engine(3);
  for (int64_t at = 0; at < mask.num_elements(); ++at) {
    const bool blind = at / max_k % max_q == 2;
    static_cast<uint8_t*>(mask.raw())[at] = blind ? 0 : engine() % 2;
  }
  return mask;
}

void CheckAgainstFloat64(const Target& target) {
  const int64_t rows = 2;
  const int64_t heads = 3;
  const int64_t max_q = 11;
  for (int64_t max_k : {1, 7, 64, 333, 2052}) {
    const Tensor scores = As(target.type, Random({rows, heads, max_q, max_k}, 6, 5.0f));
    const Tensor mask = RandomMask(rows, max_q, max_k);
    const auto* seen = static_cast<const uint8_t*>(mask.raw());
    const float scale = 0.37f;
    const std::vector<float> before = ToVector(scores);
    std::vector<double> reference;
    for (int64_t line = 0; line < rows * heads * max_q; ++line) {
      const uint8_t* sees = seen + (line / max_q / heads * max_q + line % max_q) * max_k;
      const float* row = before.data() + line * max_k;
      double sum = 0;
      for (int64_t j = 0; j < max_k; ++j) sum += sees[j] * std::exp(double{scale} * row[j]);
      for (int64_t j = 0; j < max_k; ++j) {
        reference.push_back(sees[j] != 0 ? std::exp(double{scale} * row[j]) / sum : 0.0);
      }
    }
    RunOn(target.backend, scores, mask, scale);
    EXPECT_LE(RelativeError(scores, reference), Tolerance(target.type)) << target << " " << max_k;
  }
}

TEST(MaskScaleSoftmax, MatchesFloat64) {
  for (const Target& target : Targets()) CheckAgainstFloat64(target);
}

// One query of four positions.
std::vector<float> Softmax(Backend backend, std::vector<float> scores, std::vector<uint8_t> mask) {
  const Tensor tensor = FromVector(scores).Reshape({1, 1, 1, 4});
  RunOn(backend, tensor, FromVector(mask).Reshape({1, 1, 4}), 1.0f);
  return scores;
}

TEST(MaskScaleSoftmax, ABlindQueryGetsZeros) {
  for (const Backend backend : Backends()) {
    EXPECT_EQ(Softmax(backend, {1, 2, NAN, INFINITY}, {0, 0, 0, 0}),
              (std::vector<float>{0, 0, 0, 0}));
  }
}

TEST(MaskScaleSoftmax, HiddenScoresDoNotSpread) {
  for (const Backend backend : Backends()) {
    EXPECT_EQ(Softmax(backend, {1, NAN, 1, INFINITY}, {1, 0, 1, 0}),
              (std::vector<float>{0.5f, 0, 0.5f, 0}));
  }
}

TEST(MaskScaleSoftmax, SeenNanAndInfinityShow) {
  for (const Backend backend : Backends()) {
    for (float bad : {NAN, INFINITY}) {
      const std::vector<float> out = Softmax(backend, {1, bad, 3, 4}, {1, 1, 1, 0});
      for (size_t j = 0; j < 3; ++j) EXPECT_TRUE(std::isnan(out[j])) << bad << " " << j;
      EXPECT_EQ(out[3], 0.0f);
    }
  }
}

TEST(MaskScaleSoftmax, HugeScoresDoNotOverflow) {
  for (const Backend backend : Backends()) {
    EXPECT_EQ(Softmax(backend, {3e38f, -3e38f, 3e38f, 0}, {1, 1, 1, 1}),
              (std::vector<float>{0.5f, 0, 0.5f, 0}));
  }
}

// Positions that padding adds change no bit.
void CheckPaddedBits(Backend backend) {
  const int64_t heads = 2;
  const Tensor narrow = Random({1, heads, 1, 100}, 9, 3.0f);
  const Tensor wide = Poisoned({1, heads, 1, 163});
  std::vector<uint8_t> mask(163, 0);
  std::fill_n(mask.begin(), 100, uint8_t{1});
  std::vector<uint8_t> all(100, 1);
  const std::vector<float> values = ToVector(narrow);
  for (int64_t h = 0; h < heads; ++h) {
    std::copy_n(values.begin() + h * 100, 100,
                static_cast<float*>(Tensor(wide).raw()) + h * wide.dim(3));
  }
  RunOn(backend, narrow, FromVector(all).Reshape({1, 1, 100}), 0.125f);
  RunOn(backend, wide, FromVector(mask).Reshape({1, 1, 163}), 0.125f);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t j = 0; j < 163; ++j) {
      ASSERT_EQ(At(wide, 0, h, 0, j), j < 100 ? At(narrow, 0, h, 0, j) : 0.0f) << h << " " << j;
    }
  }
}

TEST(MaskScaleSoftmax, APaddedRowHasTheSameBits) {
  for (const Backend backend : Backends()) CheckPaddedBits(backend);
}

}  // namespace
}  // namespace penstock
