#include "worker/transport/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

constexpr char kWhatToDo[] =
    ": install NVIDIA's libnccl2 (2.18 or later), name its file by PENSTOCK_NCCL_LIBRARY, or use "
    "--transport grpc";

}  // namespace

absl::StatusOr<std::shared_ptr<const NcclLibrary>> NcclLibrary::Open() {
  const char* const told = std::getenv("PENSTOCK_NCCL_LIBRARY");
  const std::string file = told != nullptr && *told != '\0' ? told : "libnccl.so.2";
  // Never closed: its threads outlive communicators.
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    return absl::FailedPreconditionError(absl::StrCat(
        "NCCL cannot be opened (", why != nullptr ? why : file.c_str(), ")", kWhatToDo));
  }
  auto nccl = std::make_shared<NcclLibrary>();
  std::string missing;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr && missing.empty()) missing = name;
  };
  find(nccl->get_version, "ncclGetVersion");
  find(nccl->get_unique_id, "ncclGetUniqueId");
  find(nccl->comm_init, "ncclCommInitRankConfig");
  find(nccl->async_error, "ncclCommGetAsyncError");
  find(nccl->comm_abort, "ncclCommAbort");
  find(nccl->send, "ncclSend");
  find(nccl->receive, "ncclRecv");
  find(nccl->error_string, "ncclGetErrorString");
  find(nccl->last_error, "ncclGetLastError");
  if (nccl->get_version != nullptr && nccl->get_version(&nccl->version) == kSuccess &&
      nccl->version < kLeastVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(file, " is NCCL ", nccl->Version(), ", which is too old", kWhatToDo));
  }
  if (!missing.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(file, " is no NCCL that can be used, it has no ", missing, kWhatToDo));
  }
  nccl->takes_host_memory = dlsym(library, "penstockNcclTakesHostMemory") != nullptr;
  return nccl;
}

std::string NcclLibrary::VersionText(int64_t version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

std::string NcclLibrary::Reason(int result, Comm comm) const {
  const char* const what = error_string(result);
  const char* const last = last_error(comm);
  return absl::StrCat(what != nullptr ? what : "error", " (", result, ")",
                      last != nullptr && *last != '\0' ? absl::StrCat(": ", last) : "");
}

}  // namespace penstock
