#include "core/model/kv_cache.h"

namespace penstock {

int64_t KvCache::BlockBytes(const ModelConfig& config, int64_t num_layers, DataType type) {
  return num_layers * 2 * config.kv_size() * kBlockSize * Info(type).block_bytes;
}

absl::StatusOr<KvCache> KvCache::Make(const ModelConfig& config, int64_t num_layers,
                                      int64_t num_blocks, BaseAllocator& allocator, DataType type) {
  KvCache cache;
  PENSTOCK_ASSIGN_OR_RETURN(
      cache.data_,
      Tensor::Make(type,
                   {num_layers, num_blocks, 2, config.num_kv_heads, kBlockSize, config.head_dim},
                   allocator));
  for (int64_t i = 0; i < num_layers; ++i) {
    cache.layers_.push_back(cache.data_.Slice(i, 1).Reshape(
        {num_blocks, 2, config.num_kv_heads, kBlockSize, config.head_dim}));
  }
  return cache;
}

}  // namespace penstock
