#include "core/base/cpu_affinity.h"

#include <sched.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/quoted.h"

namespace penstock {

absl::StatusOr<std::vector<int>> ParseCpuList(std::string_view list) {
  std::vector<int> cpus;
  for (const absl::string_view part :
       absl::StrSplit(absl::StripAsciiWhitespace(Abs(list)), ',', absl::SkipEmpty())) {
    const std::vector<absl::string_view> ends = absl::StrSplit(part, '-');
    int first = 0;
    int last = 0;
    if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &first) ||
        !absl::SimpleAtoi(ends.back(), &last) || first < 0 || last < first || last >= CPU_SETSIZE) {
      return absl::InvalidArgumentError(
          absl::StrCat("no list of cores, such as 0-3,8: ", Quoted(list)));
    }
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

absl::StatusOr<int> KeepThreadNear(const std::string& address, const std::string& devices) {
  std::ifstream file(absl::StrCat(devices, "/", absl::AsciiStrToLower(address), "/local_cpulist"));
  std::string list;
  if (!std::getline(file, list)) return 0;
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<int> near, ParseCpuList(list));

  cpu_set_t allowed;
  cpu_set_t chosen;
  CPU_ZERO(&chosen);
  const auto refused = [] {
    return absl::InternalError(
        absl::StrCat("the cores of a thread cannot be set: ", strerror(errno)));
  };
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return refused();
  for (const int cpu : near) {
    if (CPU_ISSET(cpu, &allowed)) CPU_SET(cpu, &chosen);
  }
  const int count = CPU_COUNT(&chosen);
  if (count == 0) return 0;
  if (sched_setaffinity(0, sizeof(chosen), &chosen) != 0) return refused();
  return count;
}

}  // namespace penstock
