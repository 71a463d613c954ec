// The driver of two stage processes: starts them, hands the handles over, times their plans, kills
// or stops one of them in the middle and brings a replacement up. It has no GPU context of its own.
//
// usage: peer hop   [--devices A,B] [--memory ipc|vmm]
//        peer kill  [--devices A,B] [--memory ipc|vmm] [--times N] [--how kill|stop]
//                   [--when compute|wait|store|first|capture] [--victim 0|1]
// With one device twice (0,0) the two processes share it by time slices: the logic is shown then,
// no time of it means anything.
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "channel.h"
#include "peer_stage.h"

extern char** environ;

namespace spike {
namespace {

double NowMs() {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "peer: %s\n", what.c_str());
  std::exit(1);
}

// A stage as the driver sees it.
class Process {
 public:
  explicit Process(const StageOptions& options) : options_(options) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) Fail("no socket pair");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 3);
    std::string hex;
    const auto* bytes = reinterpret_cast<const unsigned char*>(&options);
    for (size_t i = 0; i < sizeof options; ++i) {
      char digits[3];
      std::snprintf(digits, sizeof digits, "%02x", bytes[i]);
      hex += digits;
    }
    const char* arguments[] = {"peer", "stage", hex.c_str(), nullptr};
    if (posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, const_cast<char**>(arguments),
                    environ) != 0) {
      Fail("cannot start a stage");
    }
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    fd_ = ends[0];
    channel_ = std::make_unique<Channel>(fd_);
  }
  ~Process() {
    if (pid_ > 0) kill(pid_, SIGKILL);
    Reap();
    close(fd_);
  }

  void WaitUntilUp() {
    const std::string line = Expect("up ", 60'000, &descriptor_);
    const size_t space = line.find(' ', 3);
    free_at_start = std::stoull(line.substr(3, space - 3));
    handle_ = line.substr(space + 1);
  }
  // The next line that opens with `prefix`; others are dropped.
  std::string Expect(const std::string& prefix, int limit_ms = 60'000, int* descriptor = nullptr) {
    const double until = NowMs() + limit_ms;
    while (NowMs() < until) {
      const std::string line = channel_->Receive(static_cast<int>(until - NowMs()) + 1, descriptor);
      if (line.empty()) break;
      if (line.rfind(prefix, 0) == 0) return line;
    }
    Fail("stage " + std::to_string(options_.role) + " did not say '" + prefix + "'");
  }
  void Say(const std::string& line, int descriptor = -1) { channel_->Send(line, descriptor); }
  void Open(const Process& other) { Say("open " + other.handle_, other.descriptor_); }
  void Signal(int number) { kill(pid_, number); }
  void Reap() {
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
    pid_ = -1;
    if (descriptor_ >= 0) close(descriptor_);  // it would keep the memory
    descriptor_ = -1;
  }

  uint64_t free_at_start = 0;

 private:
  const StageOptions options_;
  pid_t pid_ = -1;
  int fd_ = -1;
  std::unique_ptr<Channel> channel_;
  std::string handle_;
  int descriptor_ = -1;
};

struct Arguments {
  int devices[2] = {0, 1};
  MemoryKind memory = MemoryKind::kIpc;
  int times = 20;
  bool stop = false;
  std::string when = "compute";
  int victim = 1;
};

void Connect(Process& first, Process& second) {
  first.Open(second);
  second.Open(first);
  first.Expect("opened");
  second.Expect("opened");
}

struct Timing {
  double plan_us = 0;
  double hop_us = 0;
  uint64_t garbage = 0;
};

// Of plans of two stages: first some that compare what comes, then many that are timed.
Timing TimePlans(const StageOptions& common, const Arguments& arguments) {
  StageOptions options[2] = {common, common};
  for (int role = 0; role < 2; ++role) {
    options[role].role = role;
    options[role].device = arguments.devices[role];
    options[role].memory = arguments.memory;
    options[role].limit_ns = 20'000'000'000;
  }
  std::swap(options[1].send_bytes, options[1].receive_bytes);
  Process first(options[0]), second(options[1]);
  first.WaitUntilUp();
  second.WaitUntilUp();
  Connect(first, second);
  Timing timing;
  for (const unsigned epoch : {1u, 2u}) {
    for (Process* process : {&first, &second}) {
      process->Say(epoch == 1 ? "capture" : "capture timed");
    }
    for (Process* process : {&first, &second}) process->Expect("captured");
    const std::string go = "go " + std::to_string(epoch) + " 1 2000";
    second.Say(go);
    first.Say(go);
    double away[2] = {0, 0};
    for (Process* process : {&first, &second}) {
      unsigned ran = 0;
      char error[64];
      unsigned long long wrong = 0;
      const std::string line = process->Expect("ran ");
      std::sscanf(line.c_str(), "ran %u %63s %llu %lf %lf", &ran, error, &wrong, &timing.plan_us,
                  &away[process == &first ? 0 : 1]);
      timing.garbage = std::max<uint64_t>(timing.garbage, wrong);
    }
    timing.hop_us = (away[0] - away[1]) / 2;
  }
  return timing;
}

// A hop: from the start of a stage's send, which is the end of its last layer, to the start of the
// other's first kernel after its wait. Each stage computes long enough for the other to wait again.
// The second figure is of empty stages with several plans in flight: what a plan costs at least.
int Hop(const Arguments& arguments) {
  const char* names[] = {"stores, then flag", "stores with flag", "copy engine"};
  for (const size_t bytes : {size_t{64}, size_t{8} << 10, size_t{512} << 10, size_t{4} << 20}) {
    for (const SendKind send : {SendKind::kStores, SendKind::kFused, SendKind::kCopyEngine}) {
      for (const int blocks : {1, 4, 16, 64, 132}) {
        if (bytes <= 8 << 10 ? blocks > 4 : blocks < 16) continue;
        if (send == SendKind::kCopyEngine && blocks != 1 && blocks != 16) continue;
        StageOptions options;
        options.slot_bytes = options.send_bytes = options.receive_bytes = bytes;
        options.send = send;
        options.store_blocks = blocks;
        options.depth = 1;
        options.ahead = 16;
        options.layers_ns = 40'000;
        const Timing timing = TimePlans(options, arguments);
        std::printf("%8zu bytes, %-17s %3d blocks: %7.2f us a hop; garbage %llu\n", bytes,
                    names[static_cast<int>(send)], blocks, timing.hop_us,
                    static_cast<unsigned long long>(timing.garbage));
        std::fflush(stdout);
      }
    }
    StageOptions options;
    options.slot_bytes = options.send_bytes = options.receive_bytes = bytes;
    options.send = SendKind::kFused;
    options.store_blocks = bytes <= 8 << 10 ? 4 : 64;
    options.depth = 4;
    options.ahead = 16;
    const Timing timing = TimePlans(options, arguments);
    std::printf("%8zu bytes, 4 plans of empty stages in flight: %7.2f us a plan; garbage %llu\n",
                bytes, timing.plan_us, static_cast<unsigned long long>(timing.garbage));
    std::fflush(stdout);
  }
  return 0;
}

struct Outcome {
  double notice_ms = 0;   // kill to the survivor's word
  double traffic_ms = 0;  // kill to twenty plans with the replacement
  double close_us = 0;
  int close_said = 0;
  bool context = false;
  uint64_t garbage = 0;
  int64_t held_before = 0;  // bytes of the dead stage still gone before the survivor closed
  int64_t held_after = 0;
};

// Two stages of which one is killed or stopped again and again; the other is the same process to
// the end.
class Campaign {
 public:
  Campaign(const Arguments& arguments) : arguments_(arguments) {
    for (int role = 0; role < 2; ++role) {
      StageOptions& options = options_[role];
      options.role = role;
      options.device = arguments.devices[role];
      options.memory = arguments.memory;
      options.send = SendKind::kFused;
      options.slot_bytes = size_t{512} << 10;
      options.send_bytes = role == 0 ? size_t{512} << 10 : 64;
      options.receive_bytes = role == 0 ? 64 : size_t{512} << 10;
      options.layers = 8;
      options.ballast_bytes = size_t{2} << 30;
    }
    StageOptions& dying = options_[arguments.victim];
    if (arguments.when == "wait") dying.layers = 0;
    if (arguments.when == "compute") dying.layers = 40;
    if (arguments.when == "store") {
      dying.repeat = 400;
      dying.layers = 0;
    }
    if (arguments.when == "capture") dying.capture_pause_ms = 200;
    for (int role = 0; role < 2; ++role) stages_[role] = std::make_unique<Process>(options_[role]);
    for (auto& stage : stages_) stage->WaitUntilUp();
    free_before_ = static_cast<int64_t>(victim()->free_at_start);
    Connect(*stages_[0], *stages_[1]);
    survivor().Say("capture");
    survivor().Expect("captured");
  }

  // A fresh victim is connected; it dies; a replacement takes its place and runs twenty plans.
  Outcome Once() {
    const bool in_capture = arguments_.when == "capture";
    const bool before_first = arguments_.when == "first" || in_capture;
    if (before_first && used_) Renew();
    used_ = true;
    victim()->Say("capture");
    if (!in_capture) victim()->Expect("captured");
    const std::string go = "go " + std::to_string(++epoch_) + " 1 1000000";
    survivor().Say(go);
    if (!before_first) {
      victim()->Say(go);
      for (int i = 0; i < 3; ++i) survivor().Expect("at ");
    }
    usleep(static_cast<unsigned>(random_() % 20'000));

    Outcome outcome;
    const double killed = NowMs();
    victim()->Signal(arguments_.stop ? SIGSTOP : SIGKILL);
    if (!arguments_.stop) victim()->Reap();
    // A replacement starts at once where the death is seen, after the survivor's word where not.
    std::unique_ptr<Process> replacement;
    StageOptions again = options_[arguments_.victim];
    if (!arguments_.stop) replacement = std::make_unique<Process>(again);
    unsigned voided = 0;
    char error[64] = "";
    const std::string word = survivor().Expect("void ");
    std::sscanf(word.c_str(), "void %u %63s", &voided, error);
    outcome.notice_ms = NowMs() - killed;
    outcome.context = std::string(error) == "cudaSuccess";
    if (arguments_.stop) {
      victim()->Signal(SIGKILL);
      victim()->Reap();
      replacement = std::make_unique<Process>(again);
    }
    replacement->WaitUntilUp();
    outcome.held_before = free_before_ - static_cast<int64_t>(replacement->free_at_start);
    const int64_t with_own = FreeMemory(*replacement);  // after its own buffers
    survivor().Say("close");
    const std::string closed = survivor().Expect("closed ");
    std::sscanf(closed.c_str(), "closed %d %lf", &outcome.close_said, &outcome.close_us);
    outcome.held_after = outcome.held_before - (FreeMemory(*replacement) - with_own);
    stages_[arguments_.victim] = std::move(replacement);
    Connect(*stages_[0], *stages_[1]);
    victim()->Say("capture");
    victim()->Expect("captured");
    const std::string resume =
        "go " + std::to_string(++epoch_) + " " + std::to_string(voided + 1) + " 20";
    stages_[1]->Say(resume);
    stages_[0]->Say(resume);
    for (auto& stage : stages_) {
      unsigned ran = 0;
      unsigned long long garbage = 0;
      const std::string line = stage->Expect("ran ");
      std::sscanf(line.c_str(), "ran %u %63s %llu", &ran, error, &garbage);
      outcome.garbage += garbage;  // of this process since it began
    }
    outcome.traffic_ms = NowMs() - killed;
    return outcome;
  }

 private:
  std::unique_ptr<Process>& victim() { return stages_[arguments_.victim]; }
  Process& survivor() { return *stages_[1 - arguments_.victim]; }
  static int64_t FreeMemory(Process& stage) {
    stage.Say("memory");
    return std::stoll(stage.Expect("memory ").substr(7));
  }
  // A victim that has run nothing yet.
  void Renew() {
    survivor().Say("close");
    survivor().Expect("closed ");
    victim() = nullptr;  // gone before the next one's memory is counted
    victim() = std::make_unique<Process>(options_[arguments_.victim]);
    victim()->WaitUntilUp();
    Connect(*stages_[0], *stages_[1]);
  }

  const Arguments arguments_;
  StageOptions options_[2];
  std::unique_ptr<Process> stages_[2];
  int64_t free_before_ = 0;
  unsigned epoch_ = 0;
  bool used_ = false;
  std::mt19937 random_{1};
};

int Kill(const Arguments& arguments) {
  Campaign campaign(arguments);
  std::vector<double> notice, traffic, close_us, before, after;
  int contexts = 0, close_errors = 0;
  uint64_t garbage = 0;
  for (int i = 0; i < arguments.times; ++i) {
    const Outcome outcome = campaign.Once();
    notice.push_back(outcome.notice_ms);
    traffic.push_back(outcome.traffic_ms);
    close_us.push_back(outcome.close_us);
    before.push_back(static_cast<double>(outcome.held_before) / (1 << 20));
    after.push_back(static_cast<double>(outcome.held_after) / (1 << 20));
    contexts += outcome.context ? 1 : 0;
    close_errors += outcome.close_said != 0 ? 1 : 0;
    garbage = std::max(garbage, outcome.garbage);
  }
  const auto most = [](const std::vector<double>& values) {
    return *std::max_element(values.begin(), values.end());
  };
  std::printf(
      "%s stage %d %-7s %s x%d: context whole %d, garbage words %llu, notice %.0f ms (most %.0f), "
      "traffic again %.0f ms (most %.0f), close %.0f us (%d errors), of the dead one's memory "
      "still held: before the close %.0f MiB (most %.0f), after it %.0f MiB (most %.0f)\n",
      arguments.stop ? "STOP" : "KILL", arguments.victim, arguments.when.c_str(),
      arguments.memory == MemoryKind::kIpc ? "ipc" : "vmm", arguments.times, contexts,
      static_cast<unsigned long long>(garbage), Median(notice), most(notice), Median(traffic),
      most(traffic), Median(close_us), close_errors, Median(before), most(before), Median(after),
      most(after));
  return 0;
}

int Run(int count, char** words) {
  if (count >= 3 && std::string(words[1]) == "stage") {
    StageOptions options;
    for (size_t i = 0; i < sizeof options; ++i) {
      reinterpret_cast<unsigned char*>(&options)[i] = static_cast<unsigned char>(
          std::stoul(std::string(words[2]).substr(2 * i, 2), nullptr, 16));
    }
    return RunStage(options, 3);
  }
  if (count < 2) Fail("usage: peer hop|kill [options], see peer.cc");
  Arguments arguments;
  for (int i = 2; i + 1 < count; i += 2) {
    const std::string name = words[i], value = words[i + 1];
    if (name == "--devices") {
      if (std::sscanf(value.c_str(), "%d,%d", &arguments.devices[0], &arguments.devices[1]) != 2) {
        Fail("--devices takes A,B");
      }
    } else if (name == "--memory") {
      arguments.memory = value == "vmm" ? MemoryKind::kVmm : MemoryKind::kIpc;
    } else if (name == "--times") {
      arguments.times = std::stoi(value);
    } else if (name == "--how") {
      arguments.stop = value == "stop";
    } else if (name == "--when") {
      arguments.when = value;
    } else if (name == "--victim") {
      arguments.victim = std::stoi(value) == 0 ? 0 : 1;
    } else {
      Fail("unknown option " + name);
    }
  }
  return std::string(words[1]) == "hop" ? Hop(arguments) : Kill(arguments);
}

}  // namespace
}  // namespace spike

int main(int argc, char** argv) { return spike::Run(argc, argv); }
