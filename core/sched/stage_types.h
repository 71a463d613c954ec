// What a stage is told before it loads, and what it says once it is ready. Plain values;
// proto/worker_codec.h puts them on the wire.
#pragma once

#include <cstdint>
#include <string>

#include "core/model/layer_range.h"
#include "core/model/model_config.h"
#include "core/model/model_limits.h"
#include "core/tensor/data_type.h"

namespace penstock {

// The most that StageOptions::plans_ahead may be.
inline constexpr int32_t kMaxPlansAhead = 64;

inline constexpr int64_t kDefaultKvBytes = int64_t{1} << 30;

// All limits are settings of the front end.
struct StageOptions {
  std::string model;  // path of the model file
  // For the KV blocks of this stage's layers; 0: on a GPU nine tenths of what is left of its
  // memory, on the CPU kDefaultKvBytes.
  int64_t kv_memory_bytes = 0;
  int64_t max_step_tokens = 512;  // tokens of one plan
  int64_t max_sequences = 64;     // slots; also rows sampled in one plan
  int threads = 0;                // 0: one a core
  PrefillAttention prefill_attention = PrefillAttention::kFlash;
  int64_t padded_memory_bytes = int64_t{2} << 30;  // of workspace, if prefill attention is padded
  // Where it computes: "cpu", or "cuda:N" with the ordinal of a GPU. The CPU computes in f32.
  std::string device = "cpu";
  DataType precision = DataType::kF32;  // of activations and KV; a GPU's weights have it too
  bool graphs = true;  // a GPU keeps steps of decodes as graphs; else it launches kernel by kernel
  // A GPU gives a token the same bits whatever the batch, the chunk, a prefix hit or a preemption;
  // the CPU always does.
  bool invariant = false;
  // Of a GPU's matrix products (core/io/gemm_table.h): a file, "none", or empty: the one in the
  // cache folder, if there is one.
  std::string gemm_table = {};
  bool guard_memory =
      false;  // red zones around each block of a GPU's memory: slow, to find mistakes
  std::string check_file =
      {};  // whose hashes the weights must have (core/io/check_file.h); empty: none

  // Which part of the pipeline this stage is. The first embeds, the last has norm, LM head and
  // sampler.
  int32_t stage = 0;
  int32_t num_stages = 1;
  LayerRange layers = {};   // count() 0: all
  uint64_t model_hash = 0;  // what StageInfo::model_hash must be; 0: any
  int64_t num_blocks = 0;   // KV blocks, exactly; 0: as many as kv_memory_bytes holds
  int32_t plans_ahead = 2;  // that may be on their way at once, over all stages; > 0
  // Rows go from stage to stage by memory of the device where they are computed, and every stage
  // that takes some has a mailbox of so many bytes for them (worker/transport/peer_transport.h);
  // 0: they go by the host.
  int64_t mailbox_bytes = 0;
  // With mailbox_bytes: kernels wait for what other stages' kernels store, rows and
  // sampled tokens, and the hosts only hear that it is done (core/tensor/device_mail.h). Else the
  // hosts say when rows have come, and tokens go by the host.
  bool device_mail = false;
  // Rows go from device to device by NCCL (worker/transport/nccl_transport.h); without
  // mailbox_bytes.
  bool nccl = false;

  // Rows stay where they are computed, and are taken there.
  bool rows_stay() const { return mailbox_bytes > 0 || nccl; }
};

// How far a stage has come with loading, in weights (elements, not bytes: those depend on a file's
// quantization and are known only once all of it has been read).
struct LoadProgress {
  int64_t done = 0;
  int64_t total = 0;
  std::string tensor;  // the one that is next
};

struct StageInfo {
  ModelConfig config;      // of the whole model
  int64_t num_blocks = 0;  // KV blocks of kBlockSize tokens
  int64_t weight_bytes = 0;
  int64_t load_ns = 0;
  LayerRange layers;
  // Tells models apart: over the configuration and the name, type and shape of every tensor of the
  // whole model. The same for every stage, whatever its layers.
  uint64_t model_hash = 0;
  int64_t block_bytes = 0;       // of one KV block of this stage's layers
  uint64_t gemm_table_hash = 0;  // of the table that its matrix products follow; 0: none
  std::string address;  // where other stages send to (worker/transport/transport.h); may be empty
  // The highest that the worker was told of, by any front end: its ends of lanes take senders of
  // this one or an earlier one for late. 0: none.
  uint32_t last_epoch = 0;
};

// A new epoch: all slots and mailboxes are empty, the pipeline is connected anew.
struct EpochStart {
  uint32_t epoch = 0;       // from 1, only ever higher
  uint64_t first_plan = 1;  // the number that comes first in it
  int64_t num_blocks = 0;   // KV blocks that plans may name: the least over the stages
  std::string next;   // address of the stage that takes the activations; empty: this is the last
  std::string first;  // for the last of several stages, where sampled tokens go; else empty
  int64_t connect_ns = 0;  // how long connecting may take
};

// A GPU's memory, as the stage's pools count it (core/tensor/pool_allocator.h). Zeros on the CPU.
struct DeviceMemory {
  int64_t used_bytes = 0;
  int64_t cached_bytes = 0;  // free, kept for the next that asks
  int64_t allocations = 0;   // blocks taken from the GPU since loading began
  friend bool operator==(const DeviceMemory&, const DeviceMemory&) = default;
};

// What a stage tells of itself now and then, by a thread that no plan can hold up.
struct StageBeat {
  enum class Doing : uint8_t { kIdle, kWaitsForInput, kComputes, kSends };
  uint32_t epoch = 0;
  uint64_t done = 0;     // the last plan that it finished; 0: none in this epoch
  uint64_t current = 0;  // the plan that it is at; 0: none
  Doing doing = Doing::kIdle;
  int64_t doing_ns = 0;        // for how long
  int64_t queued = 0;          // plans that wait for it
  int64_t resident_bytes = 0;  // of the process
  int64_t cpu_ns = 0;          // processor time of the process, all threads
  int64_t voids = 0;           // rows that were void since loading
  DeviceMemory device_memory;  // when it finished its last plan, or entered the epoch
};

}  // namespace penstock
