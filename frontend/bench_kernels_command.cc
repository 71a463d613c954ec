#include "frontend/bench_kernels_command.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "core/io/model_file.h"
#include "frontend/kernel_bench.h"
#include "worker/backends.h"
#include "worker/ceilings.h"

namespace penstock {
namespace {

void PrintFigures(const KernelFigures& figures, const DeviceCeilings& ceilings,
                  nlohmann::ordered_json* json) {
  const double seconds = figures.microseconds * 1e-6;
  const double share = figures.Share(ceilings);
  absl::PrintF("%-20s %-32s %12.2f %9.1f %9.1f ", figures.kernel, figures.shape,
               figures.microseconds, figures.bytes / seconds * 1e-9,
               figures.flops / seconds * 1e-12);
  if (share > 0) {
    absl::PrintF("%7.3f\n", share);
  } else {
    absl::PrintF("%7s\n", "-");
  }
  fflush(stdout);
  (*json)["kernels"].push_back({{"kernel", figures.kernel},
                                {"shape", figures.shape},
                                {"us", figures.microseconds},
                                {"bytes", figures.bytes},
                                {"flops", figures.flops},
                                {"share", share}});
}

absl::Status Bench(const BenchKernelsOptions& options, nlohmann::ordered_json* json) {
  PENSTOCK_ASSIGN_OR_RETURN(const ModelFile file, OpenModel(options.stage.model));
  StageOptions stage = options.stage;
  for (const int64_t tokens : options.tokens) {
    stage.max_sequences = std::max(stage.max_sequences, tokens);
  }
  PENSTOCK_ASSIGN_OR_RETURN(const DeviceCeilings ceilings,
                            MeasureCeilings(stage.device, stage.precision, stage.threads));
  stage.max_sequences = std::min<int64_t>(stage.max_sequences, 256);
  PENSTOCK_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend,
                            MakeBackend(stage, file.config));
  absl::PrintF("shapes of      %s on %s (%s), %s\n", stage.model, stage.device, ceilings.device,
               Abs(Name(stage.precision)));
  absl::PrintF("ceilings       read %.1f GB/s", ceilings.read_bytes_per_second * 1e-9);
  if (ceilings.flops_per_second > 0) {
    absl::PrintF(", matrix product %.1f TFLOP/s", ceilings.flops_per_second * 1e-12);
  }
  absl::PrintF(", measured before\n%-20s %-32s %12s %9s %9s %7s\n", "kernel", "shape", "us", "GB/s",
               "TFLOP/s", "share");
  *json = {{"model", stage.model},
           {"device", stage.device},
           {"device_name", ceilings.device},
           {"precision", std::string(Name(stage.precision))},
           {"read_bytes_per_second", ceilings.read_bytes_per_second},
           {"flops_per_second", ceilings.flops_per_second},
           {"kernels", nlohmann::ordered_json::array()}};
  KernelBench bench(*backend, file.config,
                    [&](const KernelFigures& figures) { PrintFigures(figures, ceilings, json); });
  for (const int64_t tokens : options.tokens) {
    PENSTOCK_RETURN_IF_ERROR(bench.RunRows(tokens));
    if (tokens > stage.max_sequences) continue;
    PENSTOCK_RETURN_IF_ERROR(bench.RunDecode(tokens, options.context));
  }
  for (const int64_t tokens : options.prompts) {
    PENSTOCK_RETURN_IF_ERROR(bench.RunPrefill(tokens));
  }
  return absl::OkStatus();
}

}  // namespace

int RunBenchKernels(const BenchKernelsOptions& options) {
  nlohmann::ordered_json json;
  const absl::Status done = Bench(options, &json);
  if (!done.ok()) {
    absl::FPrintF(stderr, "%s: %s\n", absl::StatusCodeToString(done.code()), Message(done));
  }
  // Of the kernels before one that failed, too.
  if (!options.json.empty() && !json.is_null()) {
    std::ofstream out(options.json);
    out << json.dump(2) << "\n";
    out.close();
    if (!out) {
      absl::FPrintF(stderr, "cannot write %s: name a file in a writable folder\n", options.json);
      return 1;
    }
  }
  return done.ok() ? 0 : 1;
}

}  // namespace penstock
