#include "core/kernels/bias_rope.h"

#include <cstring>

#include "core/kernels/rebuild_padding.h"
#include "cuda/kernels/fused_launchers.h"
#include "tests/support/backends.h"
#include "tests/support/padded_rows.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr float kEps = 1e-6f;

// theta^(-2i / head_dim), theta 10000.
std::vector<float> Frequencies(int64_t head_dim) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    frequencies.push_back(
        std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(head_dim)));
  }
  return frequencies;
}

Tensor Table(std::vector<int32_t> positions, int64_t head_dim, Backend backend = Backend::kCpu) {
  const Tensor table = Poisoned({static_cast<int64_t>(positions.size()), head_dim});
  if (backend == Backend::kCpu) {
    cpu::RopeTable(Pool(), Frequencies(head_dim), FromVector(positions), table);
  } else if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchRopeTable(gpu.stream(), Frequencies(head_dim), gpu.In(FromVector(positions)),
                          gpu.Out(table));
  }
  return table;
}

// bias_rope, or its padded form if there are row starts.
void RunOn(Backend backend, const BiasRopeArgs& args, const Tensor& row_starts = Tensor(),
           const Tensor& queries = Tensor()) {
  if (backend == Backend::kCpu) {
    return row_starts.empty() ? cpu::BiasRope(Pool(), args)
                              : cpu::BiasRopePadded(Pool(), args, row_starts, queries);
  }
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    const auto in = [&](const Tensor& tensor) { return tensor.empty() ? tensor : gpu.In(tensor); };
    const Tensor qkv = gpu.Out(args.qkv);
    const Tensor bias = in(args.bias);
    const Tensor q_gain = in(args.q_gain);
    const Tensor k_gain = in(args.k_gain);
    const Tensor table = in(args.rope_table);
    const BiasRopeArgs there = {qkv, bias, q_gain, k_gain, args.eps, table, args.heads};
    if (row_starts.empty()) return cuda::LaunchBiasRope(gpu.stream(), there);
    cuda::LaunchBiasRopePadded(gpu.stream(), there, gpu.In(row_starts), gpu.Out(queries));
  }
}

// What a model may have beside the rotation.
struct Extras {
  Tensor bias;
  Tensor q_gain;
  Tensor k_gain;
};

std::vector<Extras> AllExtras(const HeadLayout& heads, DataType type) {
  const Tensor bias = As(type, Random({heads.width()}, 6));
  const Tensor q_gain = As(type, Random({heads.head_dim}, 16));
  const Tensor k_gain = As(type, Random({heads.head_dim}, 26));
  return {{}, {bias, {}, {}}, {{}, q_gain, k_gain}, {bias, q_gain, k_gain}};
}

class HeadFloat64 {
 public:
  HeadFloat64(const HeadLayout& heads, const Extras& extras) : heads_(heads) {
    if (!extras.bias.empty()) bias_ = ToVector(extras.bias);
    if (!extras.q_gain.empty()) q_gain_ = ToVector(extras.q_gain);
    if (!extras.k_gain.empty()) k_gain_ = ToVector(extras.k_gain);
  }

  // Bias, norm and rotation of one token's row.
  std::vector<double> Row(const float* qkv, int32_t position) const {
    std::vector<double> row(qkv, qkv + heads_.width());
    for (size_t i = 0; i < bias_.size(); ++i) row[i] += bias_[i];
    for (int64_t head = 0; head < heads_.num_heads + heads_.num_kv_heads; ++head) {
      double* x = row.data() + head * heads_.head_dim;
      Norm(head < heads_.num_heads ? q_gain_ : k_gain_, x);
      Turn(position, x);
    }
    return row;
  }

 private:
  void Norm(const std::vector<float>& gain, double* x) const {
    if (gain.empty()) return;
    double squares = 0;
    for (size_t i = 0; i < gain.size(); ++i) squares += x[i] * x[i];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(gain.size()) + kEps);
    for (size_t i = 0; i < gain.size(); ++i) x[i] *= scale * gain[i];
  }
  void Turn(int32_t position, double* x) const {
    const int64_t half = heads_.head_dim / 2;
    for (int64_t i = 0; i < half; ++i) {
      const double angle =
          position * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
      const double a = x[i];
      const double b = x[half + i];
      x[i] = a * std::cos(angle) - b * std::sin(angle);
      x[half + i] = b * std::cos(angle) + a * std::sin(angle);
    }
  }

  HeadLayout heads_;
  std::vector<float> bias_;
  std::vector<float> q_gain_;
  std::vector<float> k_gain_;
};

void CheckAgainstFloat64(const Target& target, const HeadLayout& heads, const Extras& extras) {
  const int64_t tokens = 21;
  const Tensor qkv = As(target.type, Random({tokens, heads.width()}, 5));
  const std::vector<float> before = ToVector(qkv);
  std::vector<int32_t> positions;
  std::vector<double> reference;
  for (int32_t t = 0; t < tokens; ++t) {
    positions.push_back(t * 47);
    const float* row = before.data() + t * heads.width();
    const std::vector<double> turned = HeadFloat64(heads, extras).Row(row, t * 47);
    reference.insert(reference.end(), turned.begin(), turned.end());
  }
  const Tensor table = Table(positions, heads.head_dim, target.backend);
  RunOn(target.backend, {qkv, extras.bias, extras.q_gain, extras.k_gain, kEps, table, heads});
  // Angles are rounded to float32, as Hugging Face's are: position * 2^-24 of a radian.
  EXPECT_LE(RelativeError(qkv, reference), std::max(5e-5, Tolerance(target.type)))
      << target << ", head dim " << heads.head_dim;
}

TEST(BiasRope, MatchesFloat64) {
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads :
         {HeadLayout{9, 3, 64}, HeadLayout{4, 4, 96}, HeadLayout{8, 1, 128}, HeadLayout{1, 1, 2},
          HeadLayout{3, 1, 512}, HeadLayout{2, 2, 510}, HeadLayout{5, 1, 22}}) {
      for (const Extras& extras : AllExtras(heads, target.type)) {
        CheckAgainstFloat64(target, heads, extras);
      }
    }
  }
}

#ifdef PENSTOCK_CUDA

// In one kernel with concat_kv: the bits of queries and cache of the two behind each other, and not
// a place of the cache more.
TEST(BiasRope, WithConcatKvInOneKernelHasTheSameBits) {
  std::vector<int64_t> slots = {0, 63, 64 * 4 + 63, 64 * 2 + 7, 64 * 2 + 8, 64 * 3};
  const auto tokens = static_cast<int64_t>(slots.size());
  const std::vector<int32_t> positions = {5, 0, 1000, 17, 18, 4};
  for (const Target& target : Targets()) {
    if (target.backend == Backend::kCpu) continue;
    for (const HeadLayout& heads :
         {HeadLayout{9, 3, 64}, HeadLayout{4, 4, 96}, HeadLayout{32, 8, 128}, HeadLayout{1, 1, 2},
          HeadLayout{3, 1, 512}, HeadLayout{2, 2, 510}, HeadLayout{5, 1, 22}}) {
      const Tensor table = Table(positions, heads.head_dim);
      for (const Extras& extras : AllExtras(heads, target.type)) {
        std::vector<float> queries[2];
        Tensor caches[2];
        for (const bool together : {false, true}) {
          const Tensor qkv = As(target.type, Random({tokens, heads.width()}, 5));
          const Tensor kv = Poisoned({5, 2, heads.num_kv_heads, 64, heads.head_dim}, target.type);
          {
            const GpuCall gpu;
            const auto in = [&](const Tensor& tensor) {
              return tensor.empty() ? tensor : gpu.In(tensor);
            };
            const Tensor there = gpu.Out(qkv);
            const Tensor bias = in(extras.bias);
            const Tensor q_gain = in(extras.q_gain);
            const Tensor k_gain = in(extras.k_gain);
            const Tensor angles = gpu.In(table);
            const Tensor of_slots = gpu.In(FromVector(slots));
            const Tensor cache = gpu.Out(kv);
            const BiasRopeArgs args = {there, bias, q_gain, k_gain, kEps, angles, heads};
            if (together) {
              cuda::LaunchRopeConcatKv(gpu.stream(), args, of_slots, cache);
            } else {
              cuda::LaunchBiasRope(gpu.stream(), args);
              cuda::LaunchConcatKv(gpu.stream(), there, of_slots, heads, cache);
            }
          }
          for (int64_t t = 0; t < tokens; ++t) {
            const std::vector<float> row = ToVector(qkv.Slice(t, 1));
            queries[together].insert(queries[together].end(), row.begin(),
                                     row.begin() + heads.q_size());
          }
          caches[together] = kv;
        }
        EXPECT_EQ(queries[0], queries[1]) << target << ", head dim " << heads.head_dim;
        EXPECT_EQ(0, std::memcmp(caches[0].raw(), caches[1].raw(),
                                 static_cast<size_t>(caches[0].bytes())))
            << target << ", head dim " << heads.head_dim;
      }
    }
  }
}

#endif  // PENSTOCK_CUDA

TEST(BiasRope, PositionZeroTurnsNothing) {
  const HeadLayout heads{2, 1, 8};
  const Tensor none;
  for (const Target& target : Targets()) {
    const Tensor qkv = As(target.type, Random({1, heads.width()}, 9));
    const std::vector<float> before = ToVector(qkv);
    const Tensor table = Table({0}, 8, target.backend);
    RunOn(target.backend, {qkv, none, none, none, kEps, table, heads});
    EXPECT_EQ(ToVector(qkv), before);
  }
}

// The fused form is bias_rope, then rebuild_padding of the queries: the same bits.
void CheckPaddedForm(const Target& target, const HeadLayout& heads, const Extras& extras) {
  std::vector<int32_t> starts = RowStarts(kRowLengths, 13);
  const int64_t tokens = starts.back() - 13;
  const auto rows = static_cast<int64_t>(kRowLengths.size());
  std::vector<int32_t> positions;
  for (int32_t t = 0; t < tokens; ++t) positions.push_back((t * 29) % 200);
  const Tensor table = Table(positions, heads.head_dim, target.backend);

  const Tensor plain = As(target.type, Random({tokens, heads.width()}, 7));
  const std::vector<float> before = ToVector(plain);
  RunOn(target.backend, {plain, extras.bias, extras.q_gain, extras.k_gain, kEps, table, heads});
  const std::vector<float> turned = ToVector(plain);
  const Tensor queries = Make(DataType::kF32, {tokens, heads.q_size()});
  for (int64_t t = 0; t < tokens; ++t) {
    std::copy_n(turned.data() + t * heads.width(), heads.q_size(),
                static_cast<float*>(Tensor(queries).raw()) + t * heads.q_size());
  }
  const Shape shape({rows, heads.num_heads, Longest(kRowLengths) + 1, heads.head_dim});
  const Tensor expected = Poisoned(shape);
  cpu::RebuildPadding(Pool(), queries, FromVector(starts), expected);

  const Tensor qkv = As(target.type, Random({tokens, heads.width()}, 7));
  const Tensor padded = Poisoned(shape, target.type);
  RunOn(target.backend, {qkv, extras.bias, extras.q_gain, extras.k_gain, kEps, table, heads},
        FromVector(starts), padded);
  EXPECT_EQ(ToVector(padded), ToVector(expected)) << target;
  const std::vector<float> after = ToVector(qkv);
  for (int64_t at = 0; at < tokens * heads.width(); ++at) {
    const bool is_query = at % heads.width() < heads.q_size();
    const auto i = static_cast<size_t>(at);
    ASSERT_EQ(after[i], is_query ? before[i] : turned[i]) << target << ", " << at;
  }
}

TEST(BiasRope, PaddedFormGivesTheSameBits) {
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads :
         {HeadLayout{9, 3, 64}, HeadLayout{4, 4, 6}, HeadLayout{5, 1, 8}}) {
      for (const Extras& extras : AllExtras(heads, target.type)) {
        CheckPaddedForm(target, heads, extras);
      }
    }
  }
}

// One row for each position, whatever else is in the step.
TEST(BiasRope, ATableRowDependsOnItsPositionAlone) {
  for (const Backend backend : Backends()) {
    const std::vector<float> one = ToVector(Table({70000}, 64, backend));
    const std::vector<float> many = ToVector(Table({5, 131071, 70000, 0}, 64, backend));
    EXPECT_TRUE(std::equal(one.begin(), one.end(), many.begin() + 2 * 64));
    EXPECT_FLOAT_EQ(one[1], std::cos(70000.0f * Frequencies(64)[1]));
    EXPECT_FLOAT_EQ(one[33], std::sin(70000.0f * Frequencies(64)[1]));
  }
}

TEST(BiasRopeDeathTest, RefusesATableOfOtherTokens) {
  const HeadLayout heads{1, 1, 4};
  const Tensor none;
  const Tensor qkv = Random({2, heads.width()}, 9);
  const Tensor table = Table({4}, 4);
  EXPECT_DEATH(cpu::BiasRope(Pool(), {qkv, none, none, none, kEps, table, heads}),
               "rope_table.dim\\(0\\) == args.qkv.dim\\(0\\)");
}

}  // namespace
}  // namespace penstock
