#include "worker/tuning.h"

#include "worker/backends.h"
#ifdef PENSTOCK_CUDA
#include "cuda/gemm_tuner.h"
#endif

namespace penstock {

absl::StatusOr<GemmTable> TuneDevice(
    const ModelConfig& config, const TuningOptions& options,
    const std::function<void(const GemmShape&, const TunedGemm&, int64_t done, int64_t total)>&
        progress) {
  PENSTOCK_ASSIGN_OR_RETURN(const int ordinal, DeviceOrdinal(options.device));
  if (ordinal < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--device ", options.device,
                     ": only a GPU's algorithms are chosen by measuring: use cuda:0"));
  }
#ifdef PENSTOCK_CUDA
  return TuneGemms(config,
                   {ordinal, options.precision, options.max_step_tokens, options.max_sequences},
                   progress);
#else
  (void)config;
  (void)progress;
  return WithoutCuda(options.device);
#endif
}

}  // namespace penstock
