#include "frontend/port_file.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>

namespace penstock {

absl::Status WritePortFile(const std::string& path, int port) {
  const std::string temporary = absl::StrCat(path, ".", getpid());
  std::ofstream file(temporary);
  file << port << "\n";
  file.close();
  if (!file || rename(temporary.c_str(), path.c_str()) != 0) {
    unlink(temporary.c_str());
    return absl::InvalidArgumentError(
        absl::StrCat("cannot write the port file ", path, ": name a file in a writable folder"));
  }
  return absl::OkStatus();
}

}  // namespace penstock
