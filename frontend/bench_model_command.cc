#include "frontend/bench_model_command.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "core/base/kv_block.h"
#include "core/base/quoted.h"
#include "core/io/model_file.h"
#include "frontend/loading_display.h"
#include "frontend/model_bench.h"
#include "worker/ceilings.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// How long the weights alone took, by what the stage tells as it loads: all before the last.
struct WeightTime {
  Clock::time_point first;
  Clock::time_point last;
  double share = 0;  // of the weights that came between these two

  void Note(const LoadProgress& progress) {
    last = Clock::now();
    if (progress.done == 0) first = last;
    share = static_cast<double>(progress.done) / static_cast<double>(progress.total);
  }
  double BytesPerSecond(int64_t weight_bytes) const {
    const double seconds = Seconds(last - first).count();
    return seconds > 0 ? static_cast<double>(weight_bytes) * share / seconds : 0;
  }
};

// A decode reads all weights but the embedding table, of which it reads a row a token.
absl::StatusOr<int64_t> ReadWeightBytes(const StageOptions& options, const StageInfo& info,
                                        const ModelFile& file) {
  if (info.config.tied_embeddings) return info.weight_bytes;
  for (const TensorInfo& tensor : file.weights->Tensors()) {
    if (tensor.name != "embed_tokens.weight") continue;
    const DataType type = options.device == "cpu" ? tensor.type : options.precision;
    PENSTOCK_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(type, tensor.shape));
    return info.weight_bytes - bytes;
  }
  return info.weight_bytes;
}

absl::StatusOr<std::vector<StepCase>> ReadCases(const BenchModelOptions& options,
                                                const ModelConfig& config) {
  std::vector<StepCase> cases;
  for (const std::string& text : options.cases) {
    PENSTOCK_ASSIGN_OR_RETURN(const StepCase step, StepCase::Parse(text));
    if (step.tokens > config.context_length) {
      return absl::InvalidArgumentError(
          absl::StrCat("--case ", text, ": the model's context is ", config.context_length,
                       " tokens: use a shorter case, or a model of a longer context"));
    }
    cases.push_back(step);
  }
  return cases;
}

nlohmann::ordered_json CaseJson(const StepCase& step, const StepTimes& times, const StepCost& cost,
                                double floor) {
  const double ms = times.median_seconds * 1e3;
  nlohmann::ordered_json json = {{"case", step.Name()},
                                 {"ms", ms},
                                 {"p90_ms", times.p90_seconds * 1e3},
                                 {"steps", times.steps},
                                 {"weight_bytes", cost.weight_bytes},
                                 {"kv_bytes", cost.kv_bytes},
                                 {"flops", cost.flops()},
                                 {"floor_ms", nullptr},
                                 {"share", nullptr}};
  if (floor > 0) {
    json["floor_ms"] = floor * 1e3;
    json["share"] = floor * 1e3 / ms;
  }
  return json;
}

void PrintCase(const StepCase& step, const StepTimes& times, const StepCost& cost, double floor) {
  const double tokens = static_cast<double>(step.batch * (step.is_prefill ? step.tokens : 1));
  absl::PrintF("%-18s %10.3f %10.3f %11.1f %9.3f %9.3f", step.Name(), times.median_seconds * 1e3,
               times.p90_seconds * 1e3, tokens / times.median_seconds, cost.bytes() * 1e-9,
               cost.flops() * 1e-12);
  if (floor > 0) {
    absl::PrintF(" %10.3f %7.3f\n", floor * 1e3, floor / times.median_seconds);
  } else {
    absl::PrintF(" %10s %7s\n", "-", "-");
  }
  fflush(stdout);
}

absl::StatusOr<StageInfo> Load(StageExecutor& stage, const StageOptions& options,
                               WeightTime* time) {
  LoadingDisplayOnStderr display;
  return stage.Load(options, [&](const LoadProgress& progress) {
    time->Note(progress);
    display.Update(progress);
  });
}

// What the stage needs for the cases, or the memory that was asked for.
StageOptions WithRoom(const BenchModelOptions& options, const BenchRoom& room) {
  StageOptions stage = options.stage;
  stage.max_sequences = room.max_sequences;
  stage.max_step_tokens = room.max_step_tokens;
  stage.kv_memory_bytes = options.kv_memory_bytes;
  if (options.kv_memory_bytes == 0) stage.num_blocks = room.num_blocks;
  return stage;
}

absl::Status Bench(const BenchModelOptions& options, nlohmann::ordered_json* json) {
  PENSTOCK_ASSIGN_OR_RETURN(const ModelFile file, OpenModel(options.stage.model));
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<StepCase> cases, ReadCases(options, file.config));
  const BenchRoom room = RoomFor(cases);
  const StageOptions stage_options = WithRoom(options, room);
  PENSTOCK_ASSIGN_OR_RETURN(
      const DeviceCeilings ceilings,
      MeasureCeilings(stage_options.device, stage_options.precision, stage_options.threads));

  const std::unique_ptr<StageExecutor> stage = MakeModelStage();
  WeightTime weight_time;
  PENSTOCK_ASSIGN_OR_RETURN(const StageInfo info, Load(*stage, stage_options, &weight_time));
  if (info.num_blocks < room.num_blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("the cases need ", (room.num_blocks * info.block_bytes + (1 << 20) - 1) >> 20,
                     " MiB for keys and values: raise --kv-memory-mib, or leave it out"));
  }
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t read_bytes, ReadWeightBytes(stage_options, info, file));
  const double load_seconds = static_cast<double>(info.load_ns) * 1e-9;
  const double weight_rate = weight_time.BytesPerSecond(info.weight_bytes);
  absl::PrintF("model          %s on %s (%s), %s\n", options.stage.model, stage_options.device,
               ceilings.device, Abs(Name(stage_options.precision)));
  absl::PrintF("loaded         %.3f GB of weights at %.2f GB/s; ready after %.3f s\n",
               static_cast<double>(info.weight_bytes) * 1e-9, weight_rate * 1e-9, load_seconds);
  if (info.gemm_table_hash != 0) {
    absl::PrintF("products       by the table %016x\n", info.gemm_table_hash);
  }
  absl::PrintF("ceilings       read %.1f GB/s", ceilings.read_bytes_per_second * 1e-9);
  if (ceilings.flops_per_second > 0) {
    absl::PrintF(", matrix product %.1f TFLOP/s", ceilings.flops_per_second * 1e-12);
  }
  absl::PrintF(", measured before\n%-18s %10s %10s %11s %9s %9s %10s %7s\n", "case", "ms", "p90 ms",
               "tokens/s", "GB", "TFLOP", "floor ms", "share");
  fflush(stdout);
  *json = {
      {"model", options.stage.model},
      {"device", stage_options.device},
      {"device_name", ceilings.device},
      {"precision", std::string(Name(stage_options.precision))},
      {"weight_bytes", info.weight_bytes},
      {"gemm_table", info.gemm_table_hash == 0 ? std::string("none")
                                               : absl::StrFormat("%016x", info.gemm_table_hash)},
      {"load_seconds", load_seconds},
      {"weight_bytes_per_second", weight_rate},
      {"read_bytes_per_second", ceilings.read_bytes_per_second},
      {"flops_per_second", ceilings.flops_per_second},
      {"cases", nlohmann::ordered_json::array()}};
  // Near ties of random models in 16 bits; in f32 no more than another order of a sum.
  const double tolerance = stage_options.precision == DataType::kF32 ? 1e-3 : 0.25;
  ModelBench bench(*stage, info.config.vocab_size, stage_options.max_step_tokens, tolerance);
  for (const StepCase& step : cases) {
    PENSTOCK_ASSIGN_OR_RETURN(const StepTimes times, bench.Run(step, options.steps));
    const StepCost cost = CostOf(step, info.config, read_bytes, info.block_bytes / kBlockSize);
    const double floor = cost.FloorSeconds(step, ceilings);
    PrintCase(step, times, cost, floor);
    (*json)["cases"].push_back(CaseJson(step, times, cost, floor));
  }
  return absl::OkStatus();
}

}  // namespace

int RunBenchModel(const BenchModelOptions& options) {
  nlohmann::ordered_json json;
  const absl::Status done = Bench(options, &json);
  if (!done.ok()) {
    absl::FPrintF(stderr, "%s: %s\n", absl::StatusCodeToString(done.code()), Message(done));
  }
  // Of the cases before one that failed, too.
  if (!options.json.empty() && !json.is_null()) {
    std::ofstream file(options.json);
    file << json.dump(2) << "\n";
    file.close();
    if (!file) {
      absl::FPrintF(stderr, "cannot write %s: name a file in a writable folder\n", options.json);
      return 1;
    }
  }
  return done.ok() ? 0 : 1;
}

}  // namespace penstock
