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
    if (descriptor_ >= 0) close(descriptor_);
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

// Milliseconds a plan, over many.
double TimePlans(const StageOptions& common, const Arguments& arguments, uint32_t count,
                 double* garbage) {
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
  for (Process* process : {&first, &second}) process->Say("capture");
  for (Process* process : {&first, &second}) process->Expect("captured");
  double us = 0;
  for (const uint32_t epoch : {1u, 2u}) {  // the first warms up
    const std::string go = "go " + std::to_string(epoch) + " 1 " + std::to_string(count);
    second.Say(go);
    first.Say(go);
    unsigned ran = 0;
    char error[64];
    unsigned long long wrong = 0;
    const std::string line = first.Expect("ran ");
    std::sscanf(line.c_str(), "ran %u %63s %llu %lf", &ran, error, &wrong, &us);
    *garbage = static_cast<double>(wrong);
    const std::string other = second.Expect("ran ");
    std::sscanf(other.c_str(), "ran %u %63s %llu", &ran, error, &wrong);
    *garbage += static_cast<double>(wrong);
  }
  return us;
}

// Ping-pong of empty stages, one plan in flight: half a round is a hop, its graph launch included.
int Hop(const Arguments& arguments) {
  for (const size_t bytes : {size_t{16}, size_t{8} << 10, size_t{512} << 10, size_t{4} << 20}) {
    for (const int blocks : {1, 16, 64, 132}) {
      if (bytes <= 8 << 10 && blocks > 16) continue;
      for (const uint32_t depth : {1u, 4u}) {
        StageOptions options;
        options.slot_bytes = options.send_bytes = options.receive_bytes = bytes;
        options.depth = depth;
        options.store_blocks = blocks;
        double garbage = 0;
        const double us = TimePlans(options, arguments, 2000, &garbage);
        std::printf(
            "rows %8zu bytes each way, %3d blocks, %u in flight: %8.2f us a plan, %8.2f a hop; "
            "garbage %.0f\n",
            bytes, blocks, depth, us, us * depth / 2, garbage);
        std::fflush(stdout);
      }
    }
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

Outcome KillOnce(const Arguments& arguments, std::mt19937& random) {
  StageOptions options[2];
  for (int role = 0; role < 2; ++role) {
    options[role].role = role;
    options[role].device = arguments.devices[role];
    options[role].memory = arguments.memory;
    options[role].slot_bytes = size_t{512} << 10;
    options[role].send_bytes = role == 0 ? size_t{512} << 10 : 64;
    options[role].receive_bytes = role == 0 ? 64 : size_t{512} << 10;
    options[role].layers = 8;
    options[role].ballast_bytes = size_t{2} << 30;
  }
  StageOptions& victim = options[arguments.victim];
  if (arguments.when == "wait") victim.layers = 0;
  if (arguments.when == "compute") victim.layers = 40;
  if (arguments.when == "store") {
    victim.repeat = 400;
    victim.layers = 0;
  }
  if (arguments.when == "capture") victim.capture_pause_ms = 400;

  std::unique_ptr<Process> stages[2];
  for (int role = 0; role < 2; ++role) stages[role] = std::make_unique<Process>(options[role]);
  for (auto& stage : stages) stage->WaitUntilUp();
  Process& survivor = *stages[1 - arguments.victim];
  const int64_t free_before = static_cast<int64_t>(stages[arguments.victim]->free_at_start);
  Connect(*stages[0], *stages[1]);
  const bool captured_first = arguments.when != "capture";
  for (int role = 1; role >= 0; --role) {
    stages[role]->Say("capture");
    if (captured_first || role != arguments.victim) stages[role]->Expect("captured");
  }
  const std::string go = "go 1 1 1000000";
  survivor.Say(go);
  const bool running = arguments.when != "first" && arguments.when != "capture";
  if (running) {
    stages[arguments.victim]->Say(go);
    survivor.Expect("at ");
    survivor.Expect("at ");
    survivor.Expect("at ");
  }
  usleep(static_cast<unsigned>(random() % 20'000));

  Outcome outcome;
  const double killed = NowMs();
  stages[arguments.victim]->Signal(arguments.stop ? SIGSTOP : SIGKILL);
  if (!arguments.stop) stages[arguments.victim]->Reap();
  unsigned voided = 0;
  char error[64] = "";
  unsigned long long wrong = 0;
  // A replacement starts at once where the death is seen, after the survivor's word where it is
  // not.
  StageOptions again = victim;
  again.capture_pause_ms = 0;
  again.repeat = 1;
  std::unique_ptr<Process> replacement;
  if (!arguments.stop) replacement = std::make_unique<Process>(again);
  const std::string word = survivor.Expect("void ");
  std::sscanf(word.c_str(), "void %u %63s %llu", &voided, error, &wrong);
  outcome.notice_ms = NowMs() - killed;
  outcome.context = std::string(error) == "cudaSuccess";
  if (arguments.stop) {
    stages[arguments.victim]->Signal(SIGKILL);
    stages[arguments.victim]->Reap();
    replacement = std::make_unique<Process>(again);
  }
  replacement->WaitUntilUp();
  outcome.held_before = free_before - static_cast<int64_t>(replacement->free_at_start);
  replacement->Say("memory");
  const int64_t with_own =
      std::stoll(replacement->Expect("memory ").substr(7));  // after its own buffers
  survivor.Say("close");
  const std::string closed = survivor.Expect("closed ");
  std::sscanf(closed.c_str(), "closed %d %lf", &outcome.close_said, &outcome.close_us);
  replacement->Say("memory");
  const int64_t given_back = std::stoll(replacement->Expect("memory ").substr(7)) - with_own;
  outcome.held_after = outcome.held_before - given_back;
  stages[arguments.victim] = std::move(replacement);
  Connect(*stages[0], *stages[1]);
  stages[arguments.victim]->Say("capture");
  stages[arguments.victim]->Expect("captured");
  const uint32_t count = 20;
  const std::string resume = "go 2 " + std::to_string(voided + 1) + " " + std::to_string(count);
  stages[1]->Say(resume);
  stages[0]->Say(resume);
  for (auto& stage : stages) {
    unsigned ran = 0;
    unsigned long long garbage = 0;
    const std::string line = stage->Expect("ran ");
    std::sscanf(line.c_str(), "ran %u %63s %llu", &ran, error, &garbage);
    outcome.garbage += garbage;
  }
  outcome.traffic_ms = NowMs() - killed;
  return outcome;
}

int Kill(const Arguments& arguments) {
  std::mt19937 random(1);
  std::vector<double> notice, traffic, close_us, before, after;
  int contexts = 0, close_errors = 0;
  uint64_t garbage = 0;
  for (int i = 0; i < arguments.times; ++i) {
    const Outcome outcome = KillOnce(arguments, random);
    notice.push_back(outcome.notice_ms);
    traffic.push_back(outcome.traffic_ms);
    close_us.push_back(outcome.close_us);
    before.push_back(static_cast<double>(outcome.held_before) / (1 << 20));
    after.push_back(static_cast<double>(outcome.held_after) / (1 << 20));
    contexts += outcome.context ? 1 : 0;
    close_errors += outcome.close_said != 0 ? 1 : 0;
    garbage += outcome.garbage;
  }
  std::printf(
      "%-4s stage %d, %-8s %s, %d times: context whole %d, garbage words %llu, notice %.0f ms "
      "(most %.0f), "
      "traffic with a replacement after %.0f ms (most %.0f), close %.0f us (%d errors), "
      "the dead one's memory missing before the close %.0f MiB, after it %.0f MiB\n",
      arguments.stop ? "STOP" : "KILL", arguments.victim, arguments.when.c_str(),
      arguments.memory == MemoryKind::kIpc ? "ipc" : "vmm", arguments.times, contexts,
      static_cast<unsigned long long>(garbage), Median(notice),
      *std::max_element(notice.begin(), notice.end()), Median(traffic),
      *std::max_element(traffic.begin(), traffic.end()), Median(close_us), close_errors,
      Median(before), Median(after));
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
