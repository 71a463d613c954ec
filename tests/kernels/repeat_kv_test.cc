#include "core/kernels/repeat_kv.h"

#include "tests/support/backends.h"
#include "tests/support/padded_rows.h"
#include "tests/support/paged_batch.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const AttentionArgs& args, const Tensor& kv, const Tensor& keys,
           const Tensor& values) {
  if (backend == Backend::kCpu)
    return cpu::RepeatKv(Pool(), kv, args.block_tables, args.context_lens, args.heads, keys,
                         values);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchRepeatKv(gpu.stream(), gpu.In(kv), gpu.In(args.block_tables),
                         gpu.In(args.context_lens), args.heads, gpu.Out(keys), gpu.Out(values));
  }
}

void Check(const Target& target, const HeadLayout& heads) {
  const std::vector<int32_t> lens = {1, 64, 65, 130, 63};
  const PagedBatch batch(heads, lens, {1, 1, 1, 1, 1}, 31);
  const auto rows = static_cast<int64_t>(lens.size());
  const AttentionArgs args = batch.args();
  const Tensor kv = As(target.type, args.kv);
  const Tensor keys = Poisoned({rows, heads.num_heads, 133, heads.head_dim}, target.type);
  const Tensor values = Poisoned(keys.shape(), target.type);
  RunOn(target.backend, args, kv, keys, values);
  const std::vector<float> cache = ToVector(kv);
  const Tensor got_keys = As(DataType::kF32, keys);
  const Tensor got_values = As(DataType::kF32, values);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t h = 0; h < heads.num_heads; ++h) {
      const int64_t kv_head = h / (heads.num_heads / heads.num_kv_heads);
      for (int64_t j = 0; j < 133; ++j) {
        const bool real = j < lens[static_cast<size_t>(r)];
        const int64_t slot = real ? batch.Slot(r, j) : 0;
        const int64_t key =
            ((slot / 64 * 2 * heads.num_kv_heads + kv_head) * 64 + slot % 64) * heads.head_dim;
        const int64_t value = key + heads.num_kv_heads * 64 * heads.head_dim;
        for (int64_t d = 0; d < heads.head_dim; ++d) {
          ASSERT_EQ(At(got_keys, r, h, j, d), real ? cache[static_cast<size_t>(key + d)] : 0.0f);
          ASSERT_EQ(At(got_values, r, h, j, d),
                    real ? cache[static_cast<size_t>(value + d)] : 0.0f);
        }
      }
    }
  }
}

TEST(RepeatKv, GathersRepeatsAndPads) {
  // Grouped-query, multi-head, multi-query attention; lengths on both sides of a block.
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads :
         {HeadLayout{6, 2, 16}, HeadLayout{3, 3, 10}, HeadLayout{4, 1, 8}}) {
      Check(target, heads);
    }
  }
}

TEST(RepeatKvDeathTest, RefusesABlockOutsideTheCache) {
  const HeadLayout heads{2, 1, 4};
  std::vector<int32_t> blocks = {2};
  std::vector<int32_t> lens = {3};
  const Tensor keys = Poisoned({1, 2, 3, 4});
  EXPECT_DEATH(cpu::RepeatKv(Pool(), Poisoned({2, 2, 1, 64, 4}), FromVector(blocks).Reshape({1, 1}),
                             FromVector(lens), heads, keys, Poisoned(keys.shape())),
               "kv.dim\\(0\\)");
}

}  // namespace
}  // namespace penstock
