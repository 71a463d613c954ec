// The explicit list of model families: architecture name to factory. To add one: a folder in
// core/model and a line in the table.
#pragma once

#include <memory>
#include <string_view>

#include "core/model/llama/llama.h"

namespace penstock {

// Where a model's bytes go. The allocators must outlive it.
struct ModelMemory {
  // All on the host, where files are.
  ModelMemory(BaseAllocator& host) : workspace(host), packing(host) {}  // NOLINT
  ModelMemory(BaseAllocator& of_kernels, BaseAllocator& host, WeightLoader::Place place)
      : workspace(of_kernels), packing(host), place_weight(std::move(place)) {}

  BaseAllocator& workspace;
  BaseAllocator& packing;
  WeightLoader::Place place_weight;
  // [max_tokens, hidden] f32, as kernels see it: the residual stream of a
  // stage that takes it from another or hands it on. Empty: in the workspace.
  Tensor residual;
};

// Loads layers `range`, not empty, from the source and makes the model of config.architecture.
// `ops` must outlive it. Errors: UNIMPLEMENTED for an unknown architecture, naming
// the known ones; the source's and the allocator's.
absl::StatusOr<std::unique_ptr<Model>> MakeModel(const ModelConfig& config, LayerRange range,
                                                 const WeightSource& source,
                                                 const ModelLimits& limits, Ops& ops,
                                                 const ModelMemory& memory);

}  // namespace penstock
