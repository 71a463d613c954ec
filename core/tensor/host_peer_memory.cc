#include "core/tensor/host_peer_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "core/base/check.h"

namespace penstock {
namespace {

// A file mapped for reading and writing.
class Mapping {
 public:
  // Errors: RESOURCE_EXHAUSTED.
  static absl::StatusOr<Mapping> Make(int descriptor, int64_t bytes) {
    void* const data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED,
                            descriptor, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "cannot map ", bytes, " bytes of a mailbox: ", strerror(errno), ": end other programs"));
    }
    return Mapping(data, bytes);
  }
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  ~Mapping() {
    if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
  }

  int64_t bytes() const { return bytes_; }
  std::byte* Part(int64_t offset, int64_t bytes) const {
    PENSTOCK_CHECK(offset >= 0 && bytes >= 0 && bytes <= bytes_ && offset <= bytes_ - bytes);
    return static_cast<std::byte*>(data_) + offset;
  }

 private:
  Mapping(void* data, int64_t bytes) : data_(data), bytes_(bytes) {}

  void* data_;
  int64_t bytes_;
};

class HostMailbox final : public Mailbox {
 public:
  HostMailbox(OwnDescriptor file, Mapping mapping)
      : file_(std::move(file)), mapping_(std::move(mapping)) {}

  int64_t bytes() const override { return mapping_.bytes(); }
  const void* address() const override { return mapping_.Part(0, mapping_.bytes()); }
  absl::StatusOr<OwnDescriptor> Export() override {
    OwnDescriptor copy(fcntl(file_.get(), F_DUPFD_CLOEXEC, 0));
    if (!copy.empty()) return copy;
    return absl::ResourceExhaustedError(
        absl::StrCat("no descriptor for a mailbox: ", strerror(errno), ": raise ulimit -n"));
  }
  void Read(int64_t offset, int64_t bytes, void* to) override {
    std::memcpy(to, mapping_.Part(offset, bytes), static_cast<size_t>(bytes));
  }

 private:
  const OwnDescriptor file_;
  const Mapping mapping_;
};

class HostPeerMailbox final : public PeerMailbox {
 public:
  explicit HostPeerMailbox(Mapping mapping) : mapping_(std::move(mapping)) {}
  void Write(int64_t offset, const void* from, int64_t bytes) override {
    std::memcpy(mapping_.Part(offset, bytes), from, static_cast<size_t>(bytes));
  }
  void* address() const override { return mapping_.Part(0, mapping_.bytes()); }

 private:
  const Mapping mapping_;
};

class HostPeerMemory final : public PeerMemory {
 public:
  absl::StatusOr<std::shared_ptr<Mailbox>> MakeMailbox(int64_t bytes) override {
    PENSTOCK_CHECK_GT(bytes, 0);
    OwnDescriptor file(memfd_create("penstock-mailbox", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (file.empty() || ftruncate(file.get(), bytes) != 0 ||
        fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "cannot make a mailbox of ", bytes, " bytes: ", strerror(errno), ": end other programs"));
    }
    PENSTOCK_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Make(file.get(), bytes));
    return std::make_shared<HostMailbox>(std::move(file), std::move(mapping));
  }

  absl::StatusOr<std::unique_ptr<PeerMailbox>> Map(OwnDescriptor descriptor,
                                                   int64_t bytes) override {
    struct stat info = {};
    const int seals = fcntl(descriptor.get(), F_GET_SEALS);
    // A file that can shrink would end this process where it writes.
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || bytes <= 0 ||
        fstat(descriptor.get(), &info) != 0 || info.st_size < bytes) {
      return absl::FailedPreconditionError(
          absl::StrCat("what the next stage sent is no mailbox of ", bytes,
                       " bytes of the host's memory: give all stages the same --device, and run "
                       "one release everywhere"));
    }
    PENSTOCK_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Make(descriptor.get(), bytes));
    return std::make_unique<HostPeerMailbox>(std::move(mapping));
  }
};

}  // namespace

std::unique_ptr<PeerMemory> MakeHostPeerMemory() { return std::make_unique<HostPeerMemory>(); }

}  // namespace penstock
