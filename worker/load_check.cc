#include "worker/load_check.h"

#include <algorithm>

#include "core/base/kv_block.h"
#include "core/base/quoted.h"

namespace penstock {
namespace {

std::string Hex(uint64_t hash) { return absl::StrCat(absl::Hex(hash, absl::kZeroPad16)); }

}  // namespace

LayerRange StageLayers(const StageOptions& options, const ModelConfig& config) {
  return options.layers.count() == 0 ? LayerRange{0, config.num_layers} : options.layers;
}

absl::Status CheckStageOptions(const StageOptions& options, const ModelConfig& config,
                               uint64_t model_hash) {
  if (options.model_hash != 0 && options.model_hash != model_hash) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the front end's model has the hash ", Hex(options.model_hash), ", but ",
        Quoted(options.model), " on this worker has ", Hex(model_hash),
        ": give the front end and every worker the same model file, of one quantization"));
  }
  const LayerRange layers = StageLayers(options, config);
  const auto refuse = [&](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat("stage ", options.stage, " of ", options.num_stages, " is to load layers ",
                     layers.first, " to ", layers.last, " of ", config.num_layers, ": ", what));
  };
  if (options.stage < 0 || options.stage >= options.num_stages) {
    return refuse("stages count from 0 to one less than their number");
  }
  if (layers.first < 0 || layers.first >= layers.last || layers.last > config.num_layers) {
    return refuse("a stage needs at least one layer, and the model has no others");
  }
  if ((options.stage == 0) != (layers.first == 0)) {
    return refuse("the first stage begins at layer 0, and no other does");
  }
  if ((options.stage + 1 == options.num_stages) != (layers.last == config.num_layers)) {
    return refuse("the last stage ends with the last layer, and no other does");
  }
  if (options.plans_ahead < 1 || options.plans_ahead > kMaxPlansAhead) {
    return absl::InvalidArgumentError(
        absl::StrCat("plans_ahead is ", options.plans_ahead, "; set it to 1 to ", kMaxPlansAhead));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> StageBlocks(const StageOptions& options, const ModelConfig& config,
                                    int64_t block_bytes, int64_t kv_bytes) {
  if (options.num_blocks > 0) return options.num_blocks;
  const int64_t num_blocks = std::min<int64_t>(
      kv_bytes / block_bytes, options.max_sequences * BlocksFor(config.context_length));
  if (num_blocks >= 1) return num_blocks;
  return absl::InvalidArgumentError(absl::StrCat("one KV block of this model takes ", block_bytes,
                                                 " bytes, but the KV memory is ", kv_bytes,
                                                 " bytes: raise --kv-memory-mib"));
}

absl::Status CheckRoom(const StageOptions& options, int64_t weight_bytes, int64_t kv_bytes,
                       int64_t free_bytes) {
  if (free_bytes == 0 || weight_bytes + kv_bytes <= free_bytes) return absl::OkStatus();
  const auto mib = [](int64_t bytes) { return absl::StrCat(bytes >> 20, " MiB"); };
  return absl::ResourceExhaustedError(absl::StrCat(
      options.device, " has ", mib(free_bytes), " free, but stage ", options.stage, " needs ",
      mib(weight_bytes), " for weights and ", mib(kv_bytes),
      " for KV: lower --kv-memory-mib, share the layers over more GPUs with --stages, or end what "
      "else uses this one"));
}

int64_t KvBytesOf(int64_t free_bytes) { return free_bytes / 10 * 9; }

}  // namespace penstock
