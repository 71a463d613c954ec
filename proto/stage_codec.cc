// The half of worker_codec.h that is of the stage as a whole: loading, epochs, beats, errors.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/check.h"
#include "proto/range_check.h"
#include "proto/worker_codec.h"

namespace penstock {
namespace {

void CheckLength(std::string_view field, const std::string& text, RangeCheck* check) {
  check->Integer(std::string(field) + ".size", static_cast<int64_t>(text.size()), 0, kMaxTextBytes);
}

void EncodeLayers(const LayerRange& from, worker::v1::LayerRange* to) {
  to->set_first(from.first);
  to->set_last(from.last);
}

LayerRange DecodeLayers(const worker::v1::LayerRange& from, RangeCheck* check) {
  check->Integer("layers.last", from.last(), 0, kMaxLayers);
  check->Integer("layers.first", from.first(), 0, from.last());
  return {from.first(), from.last()};
}

void EncodeRopeScaling(const RopeScaling& from, worker::v1::RopeScaling* to) {
  switch (from.type) {
    case RopeScaling::Type::kNone:
      to->set_type(worker::v1::RopeScaling::NONE);
      break;
    case RopeScaling::Type::kLinear:
      to->set_type(worker::v1::RopeScaling::LINEAR);
      break;
    case RopeScaling::Type::kLlama3:
      to->set_type(worker::v1::RopeScaling::LLAMA3);
      break;
    case RopeScaling::Type::kFactors:
      to->set_type(worker::v1::RopeScaling::FACTORS);
      break;
  }
  to->set_factor(from.factor);
  to->set_low_freq_factor(from.low_freq_factor);
  to->set_high_freq_factor(from.high_freq_factor);
  to->set_original_context(from.original_context);
  to->mutable_factors()->Add(from.factors.begin(), from.factors.end());
}

// The numbers are Validate's to check.
absl::StatusOr<RopeScaling> DecodeRopeScaling(const worker::v1::RopeScaling& from) {
  RangeCheck check("RopeScaling");
  check.Integer("type", static_cast<int>(from.type()),
                static_cast<int>(worker::v1::RopeScaling::NONE),
                static_cast<int>(worker::v1::RopeScaling::FACTORS));
  PENSTOCK_RETURN_IF_ERROR(check.status());
  RopeScaling scaling;
  if (from.type() == worker::v1::RopeScaling::LINEAR) scaling.type = RopeScaling::Type::kLinear;
  if (from.type() == worker::v1::RopeScaling::LLAMA3) scaling.type = RopeScaling::Type::kLlama3;
  if (from.type() == worker::v1::RopeScaling::FACTORS) scaling.type = RopeScaling::Type::kFactors;
  scaling.factor = from.factor();
  scaling.low_freq_factor = from.low_freq_factor();
  scaling.high_freq_factor = from.high_freq_factor();
  scaling.original_context = from.original_context();
  scaling.factors.assign(from.factors().begin(), from.factors().end());
  return scaling;
}

}  // namespace

void EncodeStageOptions(const StageOptions& options, worker::v1::LoadRequest* message) {
  message->set_model(options.model);
  message->set_kv_memory_bytes(options.kv_memory_bytes);
  message->set_max_step_tokens(options.max_step_tokens);
  message->set_max_sequences(options.max_sequences);
  message->set_threads(options.threads);
  message->set_prefill_attention(options.prefill_attention == PrefillAttention::kPadded
                                     ? worker::v1::PREFILL_ATTENTION_PADDED
                                     : worker::v1::PREFILL_ATTENTION_FLASH);
  message->set_padded_memory_bytes(options.padded_memory_bytes);
  message->set_device(options.device);
  message->set_precision(std::string(Name(options.precision)));
  message->set_no_graphs(!options.graphs);
  message->set_invariant(options.invariant);
  message->set_gemm_table(options.gemm_table);
  message->set_guard_memory(options.guard_memory);
  message->set_check_file(options.check_file);
  message->set_stage(options.stage);
  message->set_num_stages(options.num_stages);
  EncodeLayers(options.layers, message->mutable_layers());
  message->set_model_hash(options.model_hash);
  message->set_num_blocks(options.num_blocks);
  message->set_plans_ahead(options.plans_ahead);
  message->set_mailbox_bytes(options.mailbox_bytes);
  message->set_device_mail(options.device_mail);
  message->set_nccl(options.nccl);
}

absl::StatusOr<StageOptions> DecodeStageOptions(const worker::v1::LoadRequest& message) {
  RangeCheck check("LoadRequest");
  check.Integer("kv_memory_bytes", message.kv_memory_bytes(), 0, kMaxBytes);
  check.Integer("max_step_tokens", message.max_step_tokens(), 1, kMaxStepTokens);
  check.Integer("max_sequences", message.max_sequences(), 1, kMaxSequences);
  check.Integer("threads", message.threads(), 0, kMaxThreads);
  check.Integer("prefill_attention", static_cast<int>(message.prefill_attention()),
                static_cast<int>(worker::v1::PREFILL_ATTENTION_FLASH),
                static_cast<int>(worker::v1::PREFILL_ATTENTION_PADDED));
  check.Integer("padded_memory_bytes", message.padded_memory_bytes(), 0, kMaxBytes);
  check.Integer("num_stages", message.num_stages(), 1, kMaxStages);
  check.Integer("stage", message.stage(), 0, message.num_stages() - 1);
  check.Integer("num_blocks", message.num_blocks(), 0, INT32_MAX);
  check.Integer("plans_ahead", message.plans_ahead(), 1, kMaxPlansAhead);
  check.Integer("mailbox_bytes", message.mailbox_bytes(), 0, kMaxBytes);
  const LayerRange layers = DecodeLayers(message.layers(), &check);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  const std::optional<DataType> precision = PrecisionByName(message.precision());
  if (!precision) {
    return absl::InvalidArgumentError("LoadRequest.precision is none of f32, f16 and bf16");
  }
  StageOptions options;
  options.model = message.model();
  options.kv_memory_bytes = message.kv_memory_bytes();
  options.max_step_tokens = message.max_step_tokens();
  options.max_sequences = message.max_sequences();
  options.threads = message.threads();
  options.prefill_attention = message.prefill_attention() == worker::v1::PREFILL_ATTENTION_PADDED
                                  ? PrefillAttention::kPadded
                                  : PrefillAttention::kFlash;
  options.padded_memory_bytes = message.padded_memory_bytes();
  options.device = message.device();
  options.precision = *precision;
  options.graphs = !message.no_graphs();
  options.invariant = message.invariant();
  options.gemm_table = message.gemm_table();
  options.guard_memory = message.guard_memory();
  options.check_file = message.check_file();
  options.stage = message.stage();
  options.num_stages = message.num_stages();
  options.layers = layers;
  options.model_hash = message.model_hash();
  options.num_blocks = message.num_blocks();
  options.plans_ahead = message.plans_ahead();
  options.mailbox_bytes = message.mailbox_bytes();
  options.device_mail = message.device_mail();
  options.nccl = message.nccl();
  return options;
}

void EncodeLoadProgress(const LoadProgress& progress, worker::v1::LoadProgress* message) {
  message->set_done(progress.done);
  message->set_total(progress.total);
  message->set_tensor(progress.tensor);
}

absl::StatusOr<LoadProgress> DecodeLoadProgress(const worker::v1::LoadProgress& message) {
  RangeCheck check("LoadProgress");
  check.Integer("total", message.total(), 0, kMaxBytes);
  check.Integer("done", message.done(), 0, message.total());
  PENSTOCK_RETURN_IF_ERROR(check.status());
  return LoadProgress{message.done(), message.total(), message.tensor()};
}

void EncodeStageInfo(const StageInfo& info, worker::v1::LoadResponse* message) {
  worker::v1::ModelConfig* config = message->mutable_config();
  config->set_architecture(info.config.architecture);
  config->set_name(info.config.name);
  config->set_hidden_size(info.config.hidden_size);
  config->set_intermediate_size(info.config.intermediate_size);
  config->set_num_layers(info.config.num_layers);
  config->set_num_heads(info.config.num_heads);
  config->set_num_kv_heads(info.config.num_kv_heads);
  config->set_head_dim(info.config.head_dim);
  config->set_vocab_size(info.config.vocab_size);
  config->set_context_length(info.config.context_length);
  config->set_rms_norm_eps(info.config.rms_norm_eps);
  config->set_rope_theta(info.config.rope_theta);
  config->set_tied_embeddings(info.config.tied_embeddings);
  config->set_sliding_window(info.config.sliding_window);
  config->set_qkv_bias(info.config.qkv_bias);
  config->set_qk_norm(info.config.qk_norm);
  EncodeRopeScaling(info.config.rope_scaling, config->mutable_rope_scaling());
  message->set_num_blocks(info.num_blocks);
  message->set_weight_bytes(info.weight_bytes);
  message->set_load_ns(info.load_ns);
  EncodeLayers(info.layers, message->mutable_layers());
  message->set_model_hash(info.model_hash);
  message->set_block_bytes(info.block_bytes);
  message->set_address(info.address);
  message->set_gemm_table_hash(info.gemm_table_hash);
  message->set_last_epoch(info.last_epoch);
}

absl::StatusOr<StageInfo> DecodeStageInfo(const worker::v1::LoadResponse& message) {
  const worker::v1::ModelConfig& config = message.config();
  StageInfo info;
  info.config.architecture = config.architecture();
  info.config.name = config.name();
  info.config.hidden_size = config.hidden_size();
  info.config.intermediate_size = config.intermediate_size();
  info.config.num_layers = config.num_layers();
  info.config.num_heads = config.num_heads();
  info.config.num_kv_heads = config.num_kv_heads();
  info.config.head_dim = config.head_dim();
  info.config.vocab_size = config.vocab_size();
  info.config.context_length = config.context_length();
  info.config.rms_norm_eps = config.rms_norm_eps();
  info.config.rope_theta = config.rope_theta();
  info.config.tied_embeddings = config.tied_embeddings();
  info.config.sliding_window = config.sliding_window();
  info.config.qkv_bias = config.qkv_bias();
  info.config.qk_norm = config.qk_norm();
  PENSTOCK_ASSIGN_OR_RETURN(info.config.rope_scaling, DecodeRopeScaling(config.rope_scaling()));
  PENSTOCK_RETURN_IF_ERROR(Annotate(Validate(info.config), "LoadResponse.config"));
  RangeCheck check("LoadResponse");
  check.Integer("num_blocks", message.num_blocks(), 1, INT32_MAX);
  check.Integer("weight_bytes", message.weight_bytes(), 0, kMaxBytes);
  check.Integer("load_ns", message.load_ns(), 0, INT64_MAX);
  check.Integer("block_bytes", message.block_bytes(), 0, kMaxBytes);
  CheckLength("address", message.address(), &check);
  check.Integer("last_epoch", message.last_epoch(), 0, INT32_MAX);
  info.layers = DecodeLayers(message.layers(), &check);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  info.num_blocks = message.num_blocks();
  info.weight_bytes = message.weight_bytes();
  info.load_ns = message.load_ns();
  info.model_hash = message.model_hash();
  info.block_bytes = message.block_bytes();
  info.address = message.address();
  info.gemm_table_hash = message.gemm_table_hash();
  info.last_epoch = message.last_epoch();
  return info;
}

void EncodeEpochStart(const EpochStart& start, worker::v1::EpochStart* message) {
  message->set_epoch(start.epoch);
  message->set_first_plan(start.first_plan);
  message->set_num_blocks(start.num_blocks);
  message->set_next(start.next);
  message->set_first(start.first);
  message->set_connect_ns(start.connect_ns);
}

absl::StatusOr<EpochStart> DecodeEpochStart(const worker::v1::EpochStart& message) {
  RangeCheck check("EpochStart");
  check.Integer("epoch", message.epoch(), 1, INT32_MAX);
  // Of plan numbers only 0 is none.
  check.Integer("first_plan", message.first_plan() == 0 ? 0 : 1, 1, INT64_MAX);
  check.Integer("num_blocks", message.num_blocks(), 1, INT32_MAX);
  CheckLength("next", message.next(), &check);
  CheckLength("first", message.first(), &check);
  check.Integer("connect_ns", message.connect_ns(), 0, INT64_MAX);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  return EpochStart{message.epoch(), message.first_plan(), message.num_blocks(),
                    message.next(),  message.first(),      message.connect_ns()};
}

void EncodeBeat(const StageBeat& beat, worker::v1::Beat* message) {
  message->set_epoch(beat.epoch);
  message->set_done(beat.done);
  message->set_current(beat.current);
  switch (beat.doing) {
    case StageBeat::Doing::kIdle:
      message->set_doing(worker::v1::Beat::IDLE);
      break;
    case StageBeat::Doing::kWaitsForInput:
      message->set_doing(worker::v1::Beat::WAITS_FOR_INPUT);
      break;
    case StageBeat::Doing::kComputes:
      message->set_doing(worker::v1::Beat::COMPUTES);
      break;
    case StageBeat::Doing::kSends:
      message->set_doing(worker::v1::Beat::SENDS);
      break;
  }
  message->set_doing_ns(beat.doing_ns);
  message->set_queued(beat.queued);
  message->set_resident_bytes(beat.resident_bytes);
  message->set_cpu_ns(beat.cpu_ns);
  message->set_voids(beat.voids);
  message->set_device_used_bytes(beat.device_memory.used_bytes);
  message->set_device_cached_bytes(beat.device_memory.cached_bytes);
  message->set_device_allocations(beat.device_memory.allocations);
}

absl::StatusOr<StageBeat> DecodeBeat(const worker::v1::Beat& message) {
  RangeCheck check("Beat");
  check.Integer("doing", static_cast<int>(message.doing()),
                static_cast<int>(worker::v1::Beat::IDLE),
                static_cast<int>(worker::v1::Beat::SENDS));
  check.Integer("doing_ns", message.doing_ns(), 0, INT64_MAX);
  check.Integer("queued", message.queued(), 0, INT64_MAX);
  check.Integer("resident_bytes", message.resident_bytes(), 0, INT64_MAX);
  check.Integer("cpu_ns", message.cpu_ns(), 0, INT64_MAX);
  check.Integer("voids", message.voids(), 0, INT64_MAX);
  check.Integer("device_used_bytes", message.device_used_bytes(), 0, INT64_MAX);
  check.Integer("device_cached_bytes", message.device_cached_bytes(), 0, INT64_MAX);
  check.Integer("device_allocations", message.device_allocations(), 0, INT64_MAX);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  StageBeat beat;
  beat.epoch = message.epoch();
  beat.done = message.done();
  beat.current = message.current();
  if (message.doing() == worker::v1::Beat::WAITS_FOR_INPUT) {
    beat.doing = StageBeat::Doing::kWaitsForInput;
  }
  if (message.doing() == worker::v1::Beat::COMPUTES) beat.doing = StageBeat::Doing::kComputes;
  if (message.doing() == worker::v1::Beat::SENDS) beat.doing = StageBeat::Doing::kSends;
  beat.doing_ns = message.doing_ns();
  beat.queued = message.queued();
  beat.resident_bytes = message.resident_bytes();
  beat.cpu_ns = message.cpu_ns();
  beat.voids = message.voids();
  beat.device_memory = {message.device_used_bytes(), message.device_cached_bytes(),
                        message.device_allocations()};
  return beat;
}

void EncodeHello(const WorkerHello& hello, worker::v1::Hello* message) {
  message->set_protocol(hello.protocol);
  message->set_version(hello.version);
  message->set_pid(hello.pid);
  message->set_beat_ns(hello.beat_ns);
}

absl::StatusOr<WorkerHello> DecodeHello(const worker::v1::Hello& message) {
  RangeCheck check("Hello");
  CheckLength("version", message.version(), &check);
  check.Integer("pid", message.pid(), 0, INT32_MAX);
  check.Integer("beat_ns", message.beat_ns(), 0, INT64_MAX);
  PENSTOCK_RETURN_IF_ERROR(check.status());
  return WorkerHello{message.protocol(), message.version(), message.pid(), message.beat_ns()};
}

void EncodeError(const absl::Status& status, worker::v1::Error* message) {
  PENSTOCK_CHECK(!status.ok());
  message->set_code(status.raw_code());
  message->set_message(Message(status));
}

absl::Status DecodeError(const worker::v1::Error& message) {
  const bool known = message.code() >= static_cast<int>(absl::StatusCode::kCancelled) &&
                     message.code() <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  const auto code =
      known ? static_cast<absl::StatusCode>(message.code()) : absl::StatusCode::kInternal;
  return {code, message.message()};
}

}  // namespace penstock
