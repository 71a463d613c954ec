#include "core/kernels/concat_kv.h"

#include <set>

#include "tests/support/backends.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& qkv, const Tensor& kv_slots, const HeadLayout& heads,
           const Tensor& kv) {
  if (backend == Backend::kCpu) return cpu::ConcatKv(Pool(), qkv, kv_slots, heads, kv);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchConcatKv(gpu.stream(), gpu.In(qkv), gpu.In(kv_slots), heads, gpu.Out(kv));
  }
}

void Check(const Target& target, const HeadLayout& heads) {
  const int64_t blocks = 5;
  const Tensor kv = Poisoned({blocks, 2, heads.num_kv_heads, 64, heads.head_dim}, target.type);
  std::vector<int64_t> slots = {0, 63, 64 * 4 + 63, 64 * 2 + 7, 64 * 2 + 8};
  const auto tokens = static_cast<int64_t>(slots.size());
  const Tensor qkv = As(target.type, Random({tokens, heads.width()}, 3));
  RunOn(target.backend, qkv, FromVector(slots), heads, kv);

  const std::vector<float> rows = ToVector(qkv);
  const std::vector<float> cache = ToVector(kv);
  std::set<int64_t> written;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t slot = slots[static_cast<size_t>(t)];
    for (int64_t which = 0; which < 2; ++which) {
      for (int64_t head = 0; head < heads.num_kv_heads; ++head) {
        for (int64_t i = 0; i < heads.head_dim; ++i) {
          const int64_t at =
              (((slot / 64 * 2 + which) * heads.num_kv_heads + head) * 64 + slot % 64) *
                  heads.head_dim +
              i;
          const int64_t column =
              heads.q_size() + which * heads.kv_size() + head * heads.head_dim + i;
          ASSERT_EQ(cache[static_cast<size_t>(at)],
                    rows[static_cast<size_t>(t * heads.width() + column)])
              << target;
          written.insert(at);
        }
      }
    }
  }
  for (int64_t at = 0; at < kv.num_elements(); ++at) {
    ASSERT_EQ(std::isnan(cache[static_cast<size_t>(at)]), !written.contains(at)) << target << at;
  }
}

TEST(ConcatKv, WritesItsSlotsAndNothingElse) {
  for (const Target& target : Targets()) {
    for (const HeadLayout& heads : {HeadLayout{6, 2, 16}, HeadLayout{2, 1, 6}}) {
      Check(target, heads);
    }
  }
}

TEST(ConcatKvDeathTest, RefusesASlotOutsideTheCache) {
  const HeadLayout heads{1, 1, 4};
  const Tensor kv = Poisoned({2, 2, 1, 64, 4});
  const Tensor qkv = Random({1, heads.width()}, 3);
  std::vector<int64_t> slots = {128};
  EXPECT_DEATH(cpu::ConcatKv(Pool(), qkv, FromVector(slots), heads, kv), "kv.dim\\(0\\)");
}

}  // namespace
}  // namespace penstock
