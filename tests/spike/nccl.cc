// NCCL between two processes of one host, a GPU each: what a communicator costs, what a hop costs
// in a graph and outside of one, and how a survivor gets rid of a communicator whose other end was
// killed. The parent has no GPU context; the children are forked before anything of CUDA runs.
//
// usage: nccl up | hop | kill [--times N] | graphs [--times N]    (kill, in graphs only)
// NCCL is opened at run time; NCCL_LIBRARY names another than libnccl.so.2.
#include <dlfcn.h>
#include <nccl.h>
#include <signal.h>
#include <sys/wait.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "channel.h"
#include "spike.h"

namespace spike {
namespace {

struct Nccl {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) init;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclCommFinalize) finalize;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclCommRevoke) revoke;  // these two: null where the library has none
  decltype(&ncclCommShrink) shrink;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) receive;
};

Nccl LoadNccl() {
  const char* name = std::getenv("NCCL_LIBRARY");
  void* library = dlopen(name != nullptr ? name : "libnccl.so.2", RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "nccl: %s\n", dlerror());
    std::exit(1);
  }
  Nccl nccl;
  const auto find = [&](auto& function, const char* symbol) {
    function =
        reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, symbol));
  };
  find(nccl.get_version, "ncclGetVersion");
  find(nccl.get_unique_id, "ncclGetUniqueId");
  find(nccl.init, "ncclCommInitRankConfig");
  find(nccl.async_error, "ncclCommGetAsyncError");
  find(nccl.finalize, "ncclCommFinalize");
  find(nccl.destroy, "ncclCommDestroy");
  find(nccl.abort, "ncclCommAbort");
  find(nccl.revoke, "ncclCommRevoke");
  find(nccl.shrink, "ncclCommShrink");
  find(nccl.send, "ncclSend");
  find(nccl.receive, "ncclRecv");
  return nccl;
}

constexpr double kAbortLimitUs = 5e6;

// One rank, in a process of its own.
class Rank {
 public:
  Rank(int rank, Channel parent) : rank_(rank), parent_(parent), nccl_(LoadNccl()) {
    CUDA_OK(cudaSetDevice(rank));
    CUDA_OK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    CUDA_OK(cudaMalloc(&out_, kBytes));
    CUDA_OK(cudaMalloc(&in_, kBytes));
    std::vector<unsigned char> bytes(kBytes);
    for (size_t i = 0; i < kBytes; ++i) bytes[i] = static_cast<unsigned char>(i * 31 + rank);
    CUDA_OK(cudaMemcpy(out_, bytes.data(), kBytes, cudaMemcpyHostToDevice));
  }

  // Rank 0 makes the name, the parent carries it. Microseconds.
  double Connect() {
    ncclUniqueId id = {};
    if (rank_ == 0) {
      nccl_.get_unique_id(&id);
      parent_.Send({id.internal, sizeof id});
    } else {
      const std::string name = parent_.Receive();
      if (name.size() != sizeof id) std::exit(1);
      std::memcpy(id.internal, name.data(), sizeof id);
    }
    const double start = NowUs();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    nccl_.init(&comm_, 2, id, rank_, &config);
    Settle("init");
    return NowUs() - start;
  }
  double Destroy() {
    const double start = NowUs();
    nccl_.finalize(comm_);
    Settle("finalize");
    nccl_.destroy(comm_);
    return NowUs() - start;
  }
  void Settle(const char* what) const {
    ncclResult_t state = ncclInProgress;
    while (true) {
      if (nccl_.async_error(comm_, &state) != ncclSuccess) break;
      if (state != ncclInProgress) break;
    }
    if (state != ncclSuccess) std::fprintf(stderr, "nccl: %s: error %d\n", what, state);
  }

  void Up() {
    std::vector<double> up, down;
    for (int i = 0; i < 5; ++i) {
      up.push_back(Connect());
      PingPong(8 << 10);
      CUDA_OK(cudaStreamSynchronize(stream_));
      down.push_back(Destroy());
    }
    if (rank_ != 0) return;
    int version = 0;
    nccl_.get_version(&version);
    std::printf(
        "NCCL %d: a communicator comes up in %.0f ms (the first %.0f), goes in %.0f ms; "
        "revoke %s, shrink %s\n",
        version, Median(up) / 1e3, up[0] / 1e3, Median(down) / 1e3,
        nccl_.revoke != nullptr ? "there" : "missing",
        nccl_.shrink != nullptr ? "there" : "missing");
  }

  void PingPong(size_t bytes) {
    const int other = 1 - rank_;
    for (const bool sends : {rank_ == 0, rank_ != 0}) {
      if (sends) {
        nccl_.send(out_, bytes, ncclUint8, other, comm_, stream_);
      } else {
        nccl_.receive(in_, bytes, ncclUint8, other, comm_, stream_);
      }
      Settle("send or receive");
    }
  }
  cudaGraphExec_t Capture(size_t bytes, int rounds) {
    cudaGraph_t graph;
    CUDA_OK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < rounds; ++i) PingPong(bytes);
    CUDA_OK(cudaStreamEndCapture(stream_, &graph));
    cudaGraphExec_t exec;
    CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
    // A graph left behind keeps its communicator: finalizing that one then waits for ever.
    CUDA_OK(cudaGraphDestroy(graph));
    return exec;
  }
  bool Came(size_t bytes) {
    std::vector<unsigned char> got(bytes);
    CUDA_OK(cudaMemcpyAsync(got.data(), in_, bytes, cudaMemcpyDeviceToHost, stream_));
    CUDA_OK(cudaStreamSynchronize(stream_));
    for (size_t i = 0; i < bytes; ++i) {
      if (got[i] != static_cast<unsigned char>(i * 31 + 1 - rank_)) return false;
    }
    return true;
  }

  void Hop() {
    Connect();
    for (const size_t bytes : {size_t{8} << 10, size_t{512} << 10, size_t{4} << 20}) {
      CUDA_OK(cudaMemset(in_, 0, kBytes));
      CUDA_OK(cudaDeviceSynchronize());
      double us[2];
      for (const bool in_graph : {true, false}) {
        const int rounds = 20, times = 50;
        const cudaGraphExec_t exec = in_graph ? Capture(bytes, rounds) : nullptr;
        double start = 0;
        for (int i = -5; i < times; ++i) {
          if (i == 0) {
            CUDA_OK(cudaStreamSynchronize(stream_));
            start = NowUs();
          }
          if (in_graph) {
            CUDA_OK(cudaGraphLaunch(exec, stream_));
          } else {
            for (int j = 0; j < rounds; ++j) PingPong(bytes);
          }
        }
        CUDA_OK(cudaStreamSynchronize(stream_));
        us[in_graph ? 0 : 1] = (NowUs() - start) / (2.0 * rounds * times);
        if (exec != nullptr) CUDA_OK(cudaGraphExecDestroy(exec));
      }
      const bool right = Came(bytes);
      if (rank_ == 0) {
        std::printf("NCCL %7zu bytes: %.1f us a hop in a graph of 20 rounds, %.1f outside; %s\n",
                    bytes, us[0], us[1], right ? "right" : "WRONG");
        std::fflush(stdout);
      }
    }
    Destroy();
  }

  // Rank 1 keeps the traffic up until it is killed; rank 0 ends its communicator `how`.
  void Survive(bool in_graph, bool idle, const std::string& how) {
    size_t free_before = 0, free_after = 0, total = 0;
    CUDA_OK(cudaMemGetInfo(&free_before, &total));
    Connect();
    const size_t bytes = size_t{1} << 20;
    const cudaGraphExec_t exec = in_graph ? Capture(bytes, 1) : nullptr;
    const auto round = [&] {
      if (in_graph) {
        CUDA_OK(cudaGraphLaunch(exec, stream_));
      } else {
        PingPong(bytes);
      }
    };
    for (int i = 0; i < 20; ++i) round();
    CUDA_OK(cudaStreamSynchronize(stream_));
    parent_.Send("ready");
    if (rank_ == 1) {
      if (idle) pause();
      while (true) {
        round();
        while (cudaStreamQuery(stream_) == cudaErrorNotReady) {
        }
      }
    }
    // Until a round does not end in half a second, or, idle, until the parent says so.
    double last = NowUs();
    bool stuck = false;
    while (!idle && !stuck) {
      round();
      last = NowUs();
      while (cudaStreamQuery(stream_) == cudaErrorNotReady && !stuck) {
        stuck = NowUs() - last > 5e5;
      }
    }
    if (idle) parent_.Receive();
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = nccl_.async_error(comm_, &state);

    std::atomic<int> said = -1;
    const double start = NowUs();
    ncclComm_t rest = nullptr;
    std::thread([&] {
      int result = 0;
      if (how == "revoke") {
        result = nccl_.revoke == nullptr ? 99 : nccl_.revoke(comm_, 0);
        ncclResult_t progress = ncclInProgress;
        while (result != 99 && nccl_.async_error(comm_, &progress) == ncclSuccess &&
               progress == ncclInProgress) {
        }
        if (result != 99) result = 100 * result + nccl_.abort(comm_);
      } else if (how == "shrink") {
        int gone = 1;
        result = nccl_.shrink == nullptr
                     ? 99
                     : nccl_.shrink(comm_, &gone, 1, &rest, nullptr, NCCL_SHRINK_ABORT);
        ncclResult_t progress = ncclInProgress;
        while (rest != nullptr && nccl_.async_error(rest, &progress) == ncclSuccess &&
               progress == ncclInProgress) {
        }
        if (progress != ncclInProgress) result = 100 * result + progress;
      } else {
        result = nccl_.abort(comm_);
      }
      said = result;
    }).detach();
    while (said < 0 && NowUs() - start < kAbortLimitUs) usleep(1000);
    const double took = NowUs() - start;
    char line[256];
    if (said < 0) {
      std::snprintf(line, sizeof line, "asked %d state %d, %s hangs (%.0f s)", asked, state,
                    how.c_str(), kAbortLimitUs / 1e6);
      parent_.Send(line);
      _exit(0);
    }
    const double until = NowUs() + 1e6;
    cudaError_t query = cudaErrorNotReady;
    while (query == cudaErrorNotReady && NowUs() < until) query = cudaStreamQuery(stream_);
    std::snprintf(line, sizeof line,
                  "asked %d state %d, %s says %d in %.0f ms, then the stream: %s", asked, state,
                  how.c_str(), said.load(), took / 1e3, cudaGetErrorName(query));
    if (query == cudaSuccess) {
      if (exec != nullptr) CUDA_OK(cudaGraphExecDestroy(exec));
      CUDA_OK(cudaMemGetInfo(&free_after, &total));
      const size_t length = std::strlen(line);
      std::snprintf(
          line + length, sizeof line - length, ", %d MiB not given back",
          static_cast<int>((static_cast<int64_t>(free_before) - static_cast<int64_t>(free_after)) >>
                           20));
    }
    parent_.Send(line);
    if (query != cudaSuccess) _exit(0);
    const double again = NowUs();
    Connect();
    PingPong(bytes);
    CUDA_OK(cudaStreamSynchronize(stream_));
    std::snprintf(line, sizeof line, "traffic with a replacement %.0f ms after, %s",
                  (NowUs() - again) / 1e3, Came(bytes) ? "right" : "WRONG");
    parent_.Send(line);
    _exit(0);
  }
  // What takes the dead one's place.
  void Replace() {
    Connect();
    PingPong(size_t{1} << 20);
    CUDA_OK(cudaStreamSynchronize(stream_));
    _exit(0);
  }

 private:
  static constexpr size_t kBytes = size_t{4} << 20;
  const int rank_;
  const Channel parent_;
  const Nccl nccl_;
  cudaStream_t stream_ = nullptr;
  ncclComm_t comm_ = nullptr;
  unsigned char *out_ = nullptr, *in_ = nullptr;
};

struct Child {
  pid_t pid;
  Channel channel;
};

template <typename Body>
Child Fork(int rank, const Body& body) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) std::exit(1);
  const pid_t pid = fork();
  if (pid == 0) {
    close(ends[0]);
    Rank own(rank, Channel(ends[1]));
    body(own);
    std::fflush(stdout);
    _exit(0);
  }
  close(ends[1]);
  return {pid, Channel(ends[0])};
}

template <typename Body>
void Both(int names, const Body& body) {
  const Child first = Fork(0, body), second = Fork(1, body);
  for (int i = 0; i < names; ++i) second.channel.Send(first.channel.Receive());
  waitpid(first.pid, nullptr, 0);
  waitpid(second.pid, nullptr, 0);
}

void KillOnce(bool in_graph, bool idle, const std::string& how) {
  const auto body = [&](Rank& rank) { rank.Survive(in_graph, idle, how); };
  const Child first = Fork(0, body), second = Fork(1, body);
  second.channel.Send(first.channel.Receive());
  first.channel.Receive();
  second.channel.Receive();
  usleep(200'000);
  kill(second.pid, SIGKILL);
  waitpid(second.pid, nullptr, 0);
  if (idle) first.channel.Send("dead");
  std::string line = first.channel.Receive(20'000);
  std::printf("killed %s, %s: %s", idle ? "while idle" : "in traffic",
              in_graph ? "graph" : "no graph", line.empty() ? "no word" : line.c_str());
  if (line.find("cudaSuccess") != std::string::npos) {
    const Child replacement = Fork(1, [](Rank& rank) { rank.Replace(); });
    replacement.channel.Send(first.channel.Receive(20'000));
    line = first.channel.Receive(20'000);
    std::printf("; %s", line.empty() ? "no traffic with a replacement" : line.c_str());
    kill(replacement.pid, SIGKILL);
    waitpid(replacement.pid, nullptr, 0);
  }
  std::printf("\n");
  std::fflush(stdout);
  kill(first.pid, SIGKILL);
  waitpid(first.pid, nullptr, 0);
}

int Run(int count, char** words) {
  const std::string what = count > 1 ? words[1] : "";
  const int times = count > 3 ? std::atoi(words[3]) : 3;
  if (what == "up") {
    Both(5, [](Rank& rank) { rank.Up(); });
  } else if (what == "hop") {
    Both(1, [](Rank& rank) { rank.Hop(); });
  } else if (what == "kill" || what == "graphs") {
    for (const char* how : {"abort", "revoke", "shrink"}) {
      for (int i = 0; i < times; ++i) {
        const bool hangs = std::string(how) == "abort";
        if (what == "kill") KillOnce(/*in_graph=*/false, /*idle=*/false, how);
        if (what == "kill" && i < 2) KillOnce(/*in_graph=*/false, /*idle=*/true, how);
        if (i < (hangs ? 2 : times)) KillOnce(/*in_graph=*/true, /*idle=*/false, how);
      }
    }
  } else {
    std::fprintf(stderr, "usage: nccl up | hop | kill [--times N] | graphs [--times N]\n");
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace spike

int main(int argc, char** argv) { return spike::Run(argc, argv); }
