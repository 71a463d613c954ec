#include "core/io/mmap_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <utility>

#include "core/base/check.h"
#include "core/base/checked_size.h"

namespace penstock {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// From here on a copy is read: some pages, which cost more to map than to read.
constexpr int64_t kReadBytes = 16384;

absl::Status SystemError(int error, const std::string& path, std::string_view action) {
  const absl::Status status =
      absl::ErrnoToStatus(error, absl::StrCat(path, ": cannot ", Abs(action), " the file"));
  if (error != ENOENT && error != ENOTDIR) return status;
  return absl::NotFoundError(absl::StrCat(status.message(), "; check the path"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<MmapFile>> MmapFile::Open(const std::string& path) {
  // Without O_NONBLOCK opening a named pipe would wait for a writer.
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return SystemError(errno, path, "open");
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return SystemError(errno, path, "examine");
  if (S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is a directory; give the path of a model file"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is not a regular file; give the path of a model file"));
  }
  if (info.st_size == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": the file is empty: the download has probably failed; fetch it again"));
  }
  const auto size = static_cast<size_t>(info.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) return SystemError(errno, path, "map");
  return std::shared_ptr<MmapFile>(
      new MmapFile(path, file.Release(), static_cast<const uint8_t*>(data), info.st_size, nullptr));
}

std::shared_ptr<MmapFile> MmapFile::FromBytes(std::string path, std::span<const uint8_t> bytes) {
  // Exactly as large as the bytes, so that a sanitizer sees the first read past the end.
  std::unique_ptr<uint8_t[]> owned(new uint8_t[bytes.size()]);
  std::copy(bytes.begin(), bytes.end(), owned.get());
  const uint8_t* data = owned.get();
  return std::shared_ptr<MmapFile>(new MmapFile(
      std::move(path), -1, data, static_cast<int64_t>(bytes.size()), std::move(owned)));
}

MmapFile::~MmapFile() {
  if (owned_ == nullptr) ::munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_));
  if (fd_ >= 0) ::close(fd_);
}

bool MmapFile::Contains(const uint8_t* data) const {
  return !std::less<>()(data, data_) && std::less<>()(data, data_ + size_);
}

int64_t MmapFile::CheckedOffset(const void* data, int64_t bytes) const {
  const int64_t begin = static_cast<const uint8_t*>(data) - data_;
  PENSTOCK_CHECK_GE(begin, 0);
  PENSTOCK_CHECK_GE(bytes, 0);
  PENSTOCK_CHECK((CheckedSize(begin) + CheckedSize(bytes)).FitsIn(size_));
  return begin;
}

void MmapFile::Prefetch(const void* data, int64_t bytes) const {
  const int64_t begin = CheckedOffset(data, bytes);
  if (owned_ != nullptr) return;  // in memory already
  const int64_t first = begin - begin % ::sysconf(_SC_PAGESIZE);
  // Advice only: without it the pages come as they are touched.
  ::madvise(const_cast<uint8_t*>(data_ + first), static_cast<size_t>(begin + bytes - first),
            MADV_WILLNEED);
}

void MmapFile::Copy(const void* data, int64_t bytes, void* out) const {
  int64_t offset = CheckedOffset(data, bytes);
  auto* place = static_cast<uint8_t*>(out);
  while (fd_ >= 0 && bytes >= kReadBytes) {
    const ssize_t count = ::pread(fd_, place, static_cast<size_t>(bytes), offset);
    if (count <= 0) break;  // as the mapping has it, then
    offset += count;
    place += count;
    bytes -= count;
  }
  std::copy_n(data_ + offset, bytes, place);
}

void MmapFile::Forget(const void* data, int64_t bytes) const {
  const int64_t begin = CheckedOffset(data, bytes);
  if (owned_ != nullptr) return;  // there is no file to read them from again
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t first = (begin + page - 1) / page * page;
  const int64_t last = (begin + bytes) / page * page;
  if (first >= last) return;
  ::madvise(const_cast<uint8_t*>(data_ + first), static_cast<size_t>(last - first), MADV_DONTNEED);
}

}  // namespace penstock
