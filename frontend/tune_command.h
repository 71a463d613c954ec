// `penstock tune`: measures which of the GPU's matrix-product algorithms is fastest for each
// product of a model's layers, and writes them to a table that other commands then use.
#pragma once

#include <string>

#include "worker/tuning.h"

namespace penstock {

struct TuneOptions {
  std::string model;
  TuningOptions tuning;
  std::string gemm_table;  // the file; empty: the GPU's own in the cache folder
};

// The program's exit code. Products of other models that the file has stay there, if they were
// measured on the same GPU with the same library. Figures go to standard output, a line a product.
int RunTune(const TuneOptions& options);

}  // namespace penstock
