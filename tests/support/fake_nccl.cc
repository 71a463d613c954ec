// A stand-in for NCCL (worker/transport/nccl_library.h), for tests without a GPU: its device is the
// host, its communicators are sockets between two threads or processes. As NCCL with non-blocking
// communicators it works on its own and says "in progress" meanwhile; as NCCL on one host it never
// says that the other end was killed. A receive of another size than was sent ends the process:
// with NCCL that is a hang or worse.
// Environment: FAKE_NCCL_VERSION, a number such as 21700; FAKE_NCCL_FAILS, "id", "init" or "send";
// FAKE_NCCL_HANGS, "init" or "abort".
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>

#include "worker/transport/nccl_library.h"

#define FAKE_NCCL_API extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kSuccess = 0, kInternalError = 3, kInProgress = 7;

bool Told(const char* name, const char* value) {
  const char* const told = std::getenv(name);
  return told != nullptr && std::string(told) == value;
}

// The caller's own types: the undefined-behaviour sanitizer compares them.
using Id = penstock::NcclId;

// An abstract address, so that nothing is left behind.
sockaddr_un Address(const Id& id) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, id.bytes, 32);
  return address;
}
constexpr socklen_t kAddressBytes = offsetof(sockaddr_un, sun_path) + 33;

class Communicator {
 public:
  Communicator(const Id& id, int rank) {
    socket_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_un address = Address(id);
    const auto* const name = reinterpret_cast<const sockaddr*>(&address);
    if (rank == 0 && (bind(socket_, name, kAddressBytes) != 0 || listen(socket_, 1) != 0)) abort();
    Start([this, address, rank] {
      if (Told("FAKE_NCCL_HANGS", "init")) return false;
      return rank == 0 ? Accept() : Dial(address);
    });
  }
  ~Communicator() {
    aborted_ = true;
    shutdown(socket_, SHUT_RDWR);
    if (connection_ >= 0) shutdown(connection_, SHUT_RDWR);
    thread_.join();
    if (connection_ >= 0 && connection_ != socket_) close(connection_);
    close(socket_);
  }

  void Send(const void* from, size_t count) {
    Start([this, from, count] { return Write(&count, sizeof(count)) && Write(from, count); });
  }
  void Receive(void* to, size_t count) {
    Start([this, to, count] {
      size_t sent = 0;
      if (!Read(&sent, sizeof(sent))) return false;
      if (sent != count) {
        std::fprintf(stderr, "fake NCCL: %zu bytes sent, %zu received\n", sent, count);
        abort();
      }
      return Read(to, count);
    });
  }
  bool busy() const { return busy_; }

 private:
  // False: it never ends, which is how a dead peer looks.
  void Start(const std::function<bool()>& work) {
    if (thread_.joinable()) thread_.join();
    busy_ = true;
    thread_ = std::thread([this, work] {
      if (work()) busy_ = false;
    });
  }
  bool Accept() {
    pollfd wait = {socket_, POLLIN, 0};
    while (!aborted_ && poll(&wait, 1, 10) == 0) {
    }
    if (!aborted_) connection_ = accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC);
    return connection_ >= 0;
  }
  bool Dial(const sockaddr_un& address) {
    while (!aborted_) {
      if (connect(socket_, reinterpret_cast<const sockaddr*>(&address), kAddressBytes) == 0) {
        connection_ = socket_;
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
  bool Write(const void* from, size_t count) const {
    const auto* bytes = static_cast<const char*>(from);
    while (count > 0) {
      const ssize_t wrote = send(connection_, bytes, count, MSG_NOSIGNAL);
      if (wrote <= 0) return false;
      bytes += wrote;
      count -= static_cast<size_t>(wrote);
    }
    return true;
  }
  bool Read(void* to, size_t count) const {
    return count == 0 || recv(connection_, to, count, MSG_WAITALL) == static_cast<ssize_t>(count);
  }

  int socket_ = -1;
  std::atomic<int> connection_ = -1;
  std::atomic<bool> busy_ = false;
  std::atomic<bool> aborted_ = false;
  std::thread thread_;
};

}  // namespace

// The library's names.
// NOLINTBEGIN(readability-identifier-naming)
FAKE_NCCL_API void penstockNcclTakesHostMemory() {}

FAKE_NCCL_API int ncclGetVersion(int* version) {
  const char* const told = std::getenv("FAKE_NCCL_VERSION");
  *version = told != nullptr ? std::atoi(told) : 22809;
  return kSuccess;
}

FAKE_NCCL_API int ncclGetUniqueId(Id* id) {
  if (Told("FAKE_NCCL_FAILS", "id")) return kInternalError;
  std::random_device device;
  for (char& byte : id->bytes) byte = static_cast<char>('a' + device() % 26);
  return kSuccess;
}

FAKE_NCCL_API int ncclCommInitRankConfig(void** comm, int num_ranks, Id id, int rank,
                                         penstock::NcclConfig* /*config*/) {
  if (num_ranks != 2 || Told("FAKE_NCCL_FAILS", "init")) return kInternalError;
  *comm = new Communicator(id, rank);
  return kInProgress;
}

FAKE_NCCL_API int ncclCommGetAsyncError(void* comm, int* state) {
  *state = static_cast<Communicator*>(comm)->busy() ? kInProgress : kSuccess;
  return kSuccess;
}

FAKE_NCCL_API int ncclCommAbort(void* comm) {
  if (Told("FAKE_NCCL_HANGS", "abort")) pause();
  delete static_cast<Communicator*>(comm);
  return kSuccess;
}

FAKE_NCCL_API int ncclSend(const void* from, size_t count, int /*type*/, int /*peer*/, void* comm,
                           void* /*stream*/) {
  if (Told("FAKE_NCCL_FAILS", "send")) return kInternalError;
  static_cast<Communicator*>(comm)->Send(from, count);
  return kInProgress;
}

FAKE_NCCL_API int ncclRecv(void* to, size_t count, int /*type*/, int /*peer*/, void* comm,
                           void* /*stream*/) {
  static_cast<Communicator*>(comm)->Receive(to, count);
  return kInProgress;
}

FAKE_NCCL_API const char* ncclGetErrorString(int result) {
  return result == kInternalError ? "internal error" : "no error";
}

FAKE_NCCL_API const char* ncclGetLastError(void* /*comm*/) { return "the stand-in was told to"; }
// NOLINTEND(readability-identifier-naming)
