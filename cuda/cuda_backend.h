// CudaBackend: a GPU as a stage's backend (core/model/backend.h): its pools, one stream, the
// kernels, and steps of decodes as graphs. Weights are turned into the activations' element type as
// they come to the GPU, so a quantized file takes there what its elements take in that type: the
// kernels have one form of weight, and the numbers are those that the CPU backend computes with, up
// to that type's rounding. Other rooms include this header, ceilings.h, gemm_tuner.h and
// peer_memory.h of cuda/, no others; they need none of CUDA's. A CUDA error ends the process.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/kernels/bias_rope.h"
#include "core/model/backend.h"

namespace penstock {

struct CudaBackendOptions {
  int ordinal = 0;                       // of the GPU, as CUDA counts
  DataType precision = DataType::kBF16;  // f32, f16 or bf16
  HeadLayout heads;                      // of the model
  int64_t vocab_size = 0;
  int64_t max_sequences = 0;    // rows that decode in one step
  int threads = 0;              // of the host, while weights are read; 0: one a core
  bool graphs = true;           // keep steps of decodes as graphs
  bool invariant = false;       // a token has the same bits whatever the batch and the chunk
  bool mail = false;            // rows and tokens go from kernel to kernel
  bool guard_memory = false;    // red zones around each block (MakeCudaAllocator's exact)
  std::string gemm_table = {};  // a file; "none"; empty: the GPU's own in the cache folder, if any
};

// Errors: those of MakeCudaAllocator; INVALID_ARGUMENT for another precision, UNIMPLEMENTED for
// heads or a precision that have no invariant kernels; RESOURCE_EXHAUSTED; those of ReadGemmTable,
// with what to do. A table of another GPU or library is not used, which a line in the log tells.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions& options);

}  // namespace penstock
