// A read-only mapping of a whole file. Thread-safe after it is made. A file that another program
// cuts short while it is mapped ends the process (SIGBUS) when the lost part is read: model files
// are replaced by renaming, not by writing into them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace penstock {

// What to do about a file that ends too early.
inline constexpr std::string_view kCutShort =
    ": the download is probably cut short, or the file is damaged; fetch it again";

class MmapFile {
 public:
  // Errors: NOT_FOUND, PERMISSION_DENIED, INVALID_ARGUMENT (a directory, an empty file), each with
  // the path and the system's reason.
  static absl::StatusOr<std::shared_ptr<MmapFile>> Open(const std::string& path);
  // Bytes in memory instead of a file, so that parsers can be tested; `path` is a name for
  // messages.
  static std::shared_ptr<MmapFile> FromBytes(std::string path, std::span<const uint8_t> bytes);
  ~MmapFile();
  MmapFile(const MmapFile&) = delete;
  MmapFile& operator=(const MmapFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }
  const uint8_t* data() const { return data_; }

  // Whether a pointer is to a byte of this file.
  bool Contains(const uint8_t* data) const;

  // Has the kernel read the range ahead, without waiting. Nothing else of the file is read before
  // it is touched. REQUIRES: the range lies in this file.
  void Prefetch(const void* data, int64_t bytes) const;

  // Copies bytes of the file. Large parts are read, not touched where they are mapped: that spares
  // a fault for each page, which threads would wait for each other in. REQUIRES: the range lies in
  // this file.
  void Copy(const void* data, int64_t bytes, void* out) const;

  // Lets the kernel take back the whole pages inside [data, data + bytes): they stay in the page
  // cache and are mapped again when touched. REQUIRES: the range lies in this file.
  void Forget(const void* data, int64_t bytes) const;

 private:
  // The offset of a range's first byte, once the range is known to lie in the file.
  int64_t CheckedOffset(const void* data, int64_t bytes) const;

  MmapFile(std::string path, int fd, const uint8_t* data, int64_t size,
           std::unique_ptr<uint8_t[]> owned)
      : path_(std::move(path)), fd_(fd), data_(data), size_(size), owned_(std::move(owned)) {}

  std::string path_;
  int fd_;  // -1: none
  const uint8_t* data_;
  int64_t size_;
  std::unique_ptr<uint8_t[]> owned_;  // the bytes, when they are no mapping
};

}  // namespace penstock
