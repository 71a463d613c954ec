#include "worker/supervise.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <deque>

#include "core/base/log.h"
#include "core/base/status.h"

namespace penstock {
namespace {

constexpr int kUsageError = 2;

sigset_t AwaitedSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int each : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&set, each);
  return set;
}

pid_t Start(const std::vector<std::string>& arguments, const sigset_t& old_mask) {
  std::vector<char*> words;
  words.reserve(arguments.size() + 1);
  for (const std::string& word : arguments) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  sigprocmask(SIG_SETMASK, &old_mask, nullptr);
  execv("/proc/self/exe", words.data());
  _exit(127);
}

std::string Describe(int status) {
  if (WIFSIGNALED(status)) {
    return absl::StrCat("was killed by signal ", WTERMSIG(status), " (",
                        strsignal(WTERMSIG(status)), ")");
  }
  return absl::StrCat("ended with exit code ", WEXITSTATUS(status));
}

}  // namespace

int Supervise(const std::vector<std::string>& arguments, const SuperviseOptions& options) {
  using Clock = std::chrono::steady_clock;
  const sigset_t awaited = AwaitedSignals();
  sigset_t old_mask;
  sigprocmask(SIG_BLOCK, &awaited, &old_mask);
  std::deque<Clock::time_point> deaths;
  bool stopping = false;
  pid_t child = Start(arguments, old_mask);
  while (child > 0) {
    const int signal = sigwaitinfo(&awaited, nullptr);
    if (signal == SIGTERM || signal == SIGINT) {
      stopping = true;
      kill(child, signal);
    }
    if (signal != SIGCHLD) continue;
    int status = 0;
    int child_status = 0;
    bool dead = false;
    // Also orphans, of which PID 1 is the parent.
    for (pid_t pid = waitpid(-1, &status, WNOHANG); pid > 0; pid = waitpid(-1, &status, WNOHANG)) {
      if (pid != child) continue;
      dead = true;
      child_status = status;
    }
    if (!dead) continue;
    const int code =
        WIFSIGNALED(child_status) ? 128 + WTERMSIG(child_status) : WEXITSTATUS(child_status);
    if (stopping || code == kUsageError) return code;
    const Clock::time_point now = Clock::now();
    deaths.push_back(now);
    while (now - deaths.front() > absl::ToChronoNanoseconds(options.window)) deaths.pop_front();
    const std::string what =
        absl::StrCat("the worker (process ", child, ") ", Describe(child_status));
    if (static_cast<int>(deaths.size()) >= options.max_deaths) {
      LogError(absl::StrCat(what, ", and so it has ended ", deaths.size(), " times within ",
                            absl::FormatDuration(options.window),
                            ": it is not started again; see above what it died of"));
      return 1;
    }
    LogWarning(absl::StrCat(what, "; it is started again"));
    child = Start(arguments, old_mask);
  }
  LogError(absl::StrCat("the worker cannot be started: ", strerror(errno),
                        ": look at the limits of processes and memory"));
  return 1;
}

}  // namespace penstock
