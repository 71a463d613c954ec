// How a model's layers are shared out over stages: from the bytes that its file really has and from
// the cost model. The split is the one whose slowest stage is fastest, within each stage's memory,
// and among these the most even one; the search is exact (dynamic programming over the cuts).
// Stages of unequal numbers of layers are normal: the last one has the LM head too, and a quantized
// file's layers differ. Plain values; pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/model/layer_range.h"
#include "core/model/model_config.h"
#include "core/sched/cost_model.h"

namespace penstock {

// What a model's parts take; of a model file core/io/model_bytes.h tells it.
struct ModelBytes {
  std::vector<int64_t> layers;  // weights, by layer
  int64_t embedding = 0;
  int64_t norm = 0;      // the last one
  int64_t head = 0;      // LM head; 0: the embedding table is it
  int64_t kv_block = 0;  // of one layer, of kBlockSize positions
};

struct SplitOptions {
  int64_t num_stages = 1;
  std::vector<int64_t> layers;  // of each stage, if they are not to be chosen here

  // Memory, in bytes; 0: unknown, no limit.
  std::vector<int64_t> memory;  // by stage, of weights, workspace and KV; empty: unknown
  int64_t workspace = 0;        // of each stage
  int64_t kv_memory = 0;        // of a stage's memory for KV; 0: what is left
  int64_t min_blocks = 1;       // KV blocks that every stage must have room for

  // The step that is to be fast: so many decodes at such a length.
  int64_t rows = 16;
  int64_t context = 512;  // positions of each
  MachineRates rates;
};

struct StageSplit {
  LayerRange layers;
  StageWork work;
  int64_t weight_bytes = 0;  // in memory: with the embedding table on the first stage
  int64_t block_bytes = 0;   // of one KV block of these layers
  int64_t step_ns = 0;       // predicted, of the options' step
  int64_t max_blocks = 0;    // what it has room for; 0: unknown
  int64_t unused_bytes = 0;  // of its memory, or of kv_memory, beside the split's blocks
};

struct LayerSplit {
  std::vector<StageSplit> stages;
  int64_t num_blocks = 0;  // the least over the stages; 0: unknown

  int64_t slowest_ns() const;
  PipelineCost Cost(const MachineRates& rates) const;
};

// REQUIRES: bytes.layers.size() == config.num_layers; options.layers and options.memory are empty
// or of one entry a stage.
// Errors: INVALID_ARGUMENT for more stages than layers, fewer than one, or given layers that are
// not all of the model's; RESOURCE_EXHAUSTED if no split fits in memory, with what would do.
absl::StatusOr<LayerSplit> SplitLayers(const ModelConfig& config, const ModelBytes& bytes,
                                       const SplitOptions& options);

// Reads "10,12,8": the layers of each stage, for SplitOptions::layers.
// Errors: INVALID_ARGUMENT with what to write instead.
absl::StatusOr<std::vector<int64_t>> ParseLayerCounts(std::string_view text);

}  // namespace penstock
