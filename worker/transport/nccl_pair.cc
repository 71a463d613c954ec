#include "worker/transport/nccl_pair.h"

#include <unistd.h>

#include <algorithm>
#include <future>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/log.h"

namespace penstock {
namespace {

// Between two looks at a wait: none at first, for a hop takes some 20 us.
void Pause(int64_t round) {
  if (round < 4000) {
    std::this_thread::yield();
  } else {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclPair>> NcclPair::Connect(NcclPairOptions options,
                                                            const NcclId& id, Role role,
                                                            const Deadline& deadline) {
  std::unique_ptr<NcclPair> pair(new NcclPair(std::move(options), role));
  const absl::Status begun = pair->Begin(id, deadline);
  if (begun.ok()) return pair;
  if (!absl::IsDeadlineExceeded(begun)) return begun;
  return absl::DeadlineExceededError(absl::StrCat(
      "NCCL has not connected the two GPUs for ", absl::FormatDuration(deadline.limit()),
      ": set NCCL_SOCKET_IFNAME on every host to the network interface by which they reach each "
      "other, see what NCCL_DEBUG=INFO tells, or use --transport grpc"));
}

NcclPair::~NcclPair() { End(); }

absl::Status NcclPair::Begin(const NcclId& id, const Deadline& deadline) {
  options_.stream->Use();
  NcclConfig config;
  const int result = options_.library->comm_init(&comm_, 2, id, static_cast<int>(role_), &config);
  if (comm_ == nullptr) return Check(result);
  PENSTOCK_RETURN_IF_ERROR(Wait(result, deadline));
  // The first bytes of a pair connect it, load kernels and take memory: not a step's.
  constexpr int64_t kFirst = 8;
  std::byte* const scratch = options_.stream->scratch();
  return role_ == Role::kSends ? Send(scratch, kFirst, deadline)
                               : Receive(scratch, kFirst, deadline);
}

absl::Status NcclPair::Send(const std::byte* from, int64_t bytes, const Deadline& deadline) {
  return InPieces(bytes, deadline, [&](int64_t offset, size_t count) {
    return options_.library->send(from + offset, count, NcclLibrary::kBytes,
                                  static_cast<int>(Role::kReceives), comm_,
                                  options_.stream->handle());
  });
}

absl::Status NcclPair::Receive(std::byte* to, int64_t bytes, const Deadline& deadline) {
  return InPieces(bytes, deadline, [&](int64_t offset, size_t count) {
    return options_.library->receive(to + offset, count, NcclLibrary::kBytes,
                                     static_cast<int>(Role::kSends), comm_,
                                     options_.stream->handle());
  });
}

absl::Status NcclPair::Skip(int64_t bytes, const Deadline& deadline) {
  return InPieces(bytes, deadline, [&](int64_t, size_t count) {
    return options_.library->receive(options_.stream->scratch(), count, NcclLibrary::kBytes,
                                     static_cast<int>(Role::kSends), comm_,
                                     options_.stream->handle());
  });
}

// Pieces that fit the scratch: both ends must name the same sizes, and Skip has no more room.
absl::Status NcclPair::InPieces(int64_t bytes, const Deadline& deadline,
                                const std::function<int(int64_t offset, size_t count)>& call) {
  if (comm_ == nullptr) {
    return absl::UnavailableError("the connection by NCCL is over: begin a new epoch");
  }
  options_.stream->Use();
  const int64_t most = options_.stream->scratch_bytes();
  for (int64_t offset = 0; offset < bytes; offset += most) {
    const int64_t count = std::min(most, bytes - offset);
    PENSTOCK_RETURN_IF_ERROR(Wait(call(offset, static_cast<size_t>(count)), deadline));
  }
  return absl::OkStatus();
}

// Until what was called is enqueued, and then done.
absl::Status NcclPair::Wait(int result, const Deadline& deadline) {
  bool enqueued = false;
  for (int64_t round = 0;; ++round) {
    int state = NcclLibrary::kSuccess;
    if (result == NcclLibrary::kSuccess || result == NcclLibrary::kInProgress) {
      result = options_.library->async_error(comm_, &state);
    }
    if (result == NcclLibrary::kSuccess) result = state;
    PENSTOCK_RETURN_IF_ERROR(Check(result));
    if (!enqueued && state == NcclLibrary::kSuccess) {
      options_.stream->Mark();
      enqueued = true;
    }
    if (enqueued && options_.stream->IsDone()) return absl::OkStatus();
    PENSTOCK_RETURN_IF_ERROR(WaitNoLonger(deadline));
    Pause(round);
  }
}

absl::Status NcclPair::Check(int result) {
  if (result == NcclLibrary::kSuccess || result == NcclLibrary::kInProgress) {
    return absl::OkStatus();
  }
  const absl::Status why = absl::InternalError(absl::StrCat(
      "NCCL says: ", options_.library->Reason(result, comm_),
      "; NCCL_DEBUG=WARN tells more. Each stage needs a GPU of its own, with some hundred MiB free "
      "(--kv-memory-mib); else use --transport grpc"));
  End();
  return why;
}

absl::Status NcclPair::WaitNoLonger(const Deadline& deadline) {
  absl::Status why = options_.ended();
  if (why.ok() && deadline.left() <= absl::ZeroDuration()) {
    why = absl::DeadlineExceededError(absl::StrCat(
        "bytes have not gone through NCCL for ", absl::FormatDuration(deadline.limit()),
        ": the stage at the other end hangs, or is that much slower"));
  }
  if (!why.ok()) End();
  return why;
}

void NcclPair::End() {
  if (comm_ == nullptr) return;
  const auto ended = std::make_shared<std::promise<void>>();
  std::future<void> wait = ended->get_future();
  std::thread([library = options_.library, stream = options_.stream,
               comm = std::exchange(comm_, nullptr), ended] {
    stream->Use();
    library->comm_abort(comm);
    ended->set_value();
  }).detach();
  const Deadline deadline(options_.abort_limit);
  bool over =
      wait.wait_for(absl::ToChronoNanoseconds(options_.abort_limit)) == std::future_status::ready;
  // What was enqueued may still have written to a step's rows.
  if (over) options_.stream->Mark();
  for (int64_t round = 0; over && !options_.stream->IsDone(); ++round) {
    over = deadline.left() > absl::ZeroDuration();
    Pause(round);
  }
  if (over) return;
  LogError(absl::StrCat("NCCL has not ended a connection within ",
                        absl::FormatDuration(options_.abort_limit),
                        "; this process ends, to be started again"));
  _exit(1);
}

}  // namespace penstock
