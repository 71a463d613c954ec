// NcclLibrary: NCCL, opened while the program runs, so that programs build and start where there is
// none. The few functions that a pair of stages needs, declared here after NVIDIA's documentation
// (NCCL user guide, "API"); what they do is said there. Thread-safe, as NCCL is: one thread at a
// time per communicator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "core/base/status.h"

namespace penstock {

// What names a communicator: made by one rank, told to the others.
struct NcclId {
  char bytes[128] = {};
};

// As of NCCL 2.17: a library takes what it knows of it by `size`, and of an older one by `version`.
struct NcclConfig {
  static constexpr int kDefault = -2147483647 - 1;  // whatever the library thinks best
  size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21700;
  int blocking = 0;  // no call waits for another rank
  int cga_cluster_size = kDefault;
  int min_ctas = kDefault;
  int max_ctas = kDefault;
  const char* net_name = nullptr;
  int split_share = kDefault;
};

struct NcclLibrary {
  using Comm = void*;
  // Of ncclResult_t and ncclDataType_t.
  static constexpr int kSuccess = 0;
  static constexpr int kInProgress = 7;
  static constexpr int kBytes = 1;
  static constexpr int kLeastVersion = 21800;

  // Opens $PENSTOCK_NCCL_LIBRARY, or libnccl.so.2 where the system's loader finds it; it stays
  // open. Errors, with what to do: FAILED_PRECONDITION if there is none, or it is too old.
  static absl::StatusOr<std::shared_ptr<const NcclLibrary>> Open();

  // "2.28.9", of 22809.
  static std::string VersionText(int64_t version);
  std::string Version() const { return VersionText(version); }
  // What a call's result means, with what the library says of it. `comm` may be null.
  std::string Reason(int result, Comm comm) const;

  int version = 0;
  // It is a stand-in of tests, whose device is the host.
  bool takes_host_memory = false;

  int (*get_version)(int* version) = nullptr;
  int (*get_unique_id)(NcclId* id) = nullptr;
  int (*comm_init)(Comm* comm, int num_ranks, NcclId id, int rank, NcclConfig* config) = nullptr;
  int (*async_error)(Comm comm, int* state) = nullptr;
  int (*comm_abort)(Comm comm) = nullptr;
  int (*send)(const void* from, size_t count, int type, int peer, Comm comm,
              void* stream) = nullptr;
  int (*receive)(void* to, size_t count, int type, int peer, Comm comm, void* stream) = nullptr;
  const char* (*error_string)(int result) = nullptr;
  const char* (*last_error)(Comm comm) = nullptr;
};

}  // namespace penstock
