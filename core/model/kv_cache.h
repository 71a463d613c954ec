// KvCache: the paged keys and values of one stage's layers. It owns the bytes; which block belongs
// to whom is the scheduler's business. One thread at a time.
#pragma once

#include <cstdint>

#include "core/base/kv_block.h"
#include "core/base/status.h"
#include "core/model/model_config.h"
#include "core/tensor/tensor.h"

namespace penstock {

class KvCache {
 public:
  // Blocks of kBlockSize tokens for `num_layers` layers. Errors: the allocator's.
  static absl::StatusOr<KvCache> Make(const ModelConfig& config, int64_t num_layers,
                                      int64_t num_blocks, BaseAllocator& allocator,
                                      DataType type = DataType::kF32);
  // Bytes of one block over all layers.
  static int64_t BlockBytes(const ModelConfig& config, int64_t num_layers,
                            DataType type = DataType::kF32);

  int64_t num_blocks() const { return data_.dim(1); }
  // [num_blocks, 2, num_kv_heads, kBlockSize, head_dim] of a layer, counted from the stage's first.
  const Tensor& layer(int64_t i) const { return layers_[static_cast<size_t>(i)]; }

 private:
  Tensor data_;  // [layer][block][K|V][kv head][kBlockSize][head dim]
  std::vector<Tensor> layers_;
};

}  // namespace penstock
