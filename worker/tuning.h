// Measuring algorithms for a device by its name: what `penstock tune` does. Takes the whole device
// for some seconds: to be called while nothing else runs.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/base/status.h"
#include "core/io/gemm_table.h"
#include "core/model/model_config.h"

namespace penstock {

struct TuningOptions {
  std::string device;
  DataType precision = DataType::kBF16;
  int64_t max_step_tokens = 2048;  // as the stage will have them
  int64_t max_sequences = 256;
};

// The products of a model of this config on "cuda:N"; `progress` is called after each, on this
// thread. Errors: those of MakeBackend for such a device; INVALID_ARGUMENT for a CPU, which has
// nothing to choose; DATA_LOSS for wrong results.
absl::StatusOr<GemmTable> TuneDevice(
    const ModelConfig& config, const TuningOptions& options,
    const std::function<void(const GemmShape&, const TunedGemm&, int64_t done, int64_t total)>&
        progress);

}  // namespace penstock
