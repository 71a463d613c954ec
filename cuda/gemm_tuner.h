// Measures which of cuBLASLt's algorithms is fastest for the products of a model's layers: what
// `penstock tune` does. A product is timed as a step has it: over the weights of several layers in
// turn, more than level 2 holds, as one graph. Every candidate's result is checked first. No CUDA
// header is needed to include this; a CUDA error ends the process.
#pragma once

#include <cstdint>
#include <functional>

#include "core/base/status.h"
#include "core/io/gemm_table.h"
#include "core/model/model_config.h"

namespace penstock {

struct GemmTuning {
  int ordinal = 0;                       // of the GPU, as CUDA counts
  DataType precision = DataType::kBF16;  // f32, f16 or bf16
  int64_t max_step_tokens = 0;           // steps of so many tokens at most
  int64_t max_sequences = 0;             // that sample so many rows at most
};

// Each product as it is done, and how many there will be.
using TuningProgress =
    std::function<void(const GemmShape&, const TunedGemm&, int64_t done, int64_t total)>;

// For as many layers of the config as it takes, with weights of its own. To be called while nothing
// else runs on the GPU. Errors: those of MakeCudaAllocator; DATA_LOSS where the library's own first
// choice is wrong.
absl::StatusOr<GemmTable> TuneGemms(const ModelConfig& config, const GemmTuning& tuning,
                                    const TuningProgress& progress);

namespace cuda {

// What a table says that was made on this GPU with this library, without products.
GemmTable GemmTableOfGpu(int ordinal);

}  // namespace cuda
}  // namespace penstock
