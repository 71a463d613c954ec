// LinkStream: where a library that moves bytes between devices (NCCL) enqueues its work: a stream
// of one device, apart from the one that computes, and a little memory beside it for bytes that
// nobody wants. Kinds: a GPU's (cuda/link_stream.h); the host's, for stand-ins of such a library.
// Thread rule: one thread at a time, but for Use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace penstock {

class LinkStream {
 public:
  virtual ~LinkStream() = default;
  // As the library takes it: a cudaStream_t; null on the host.
  virtual void* handle() const = 0;
  // The calling thread works for this device from here on.
  virtual void Use() = 0;
  // Marks the end of what is enqueued.
  virtual void Mark() = 0;
  // Whether all before the last mark is done; true as well when nothing was marked. Never waits.
  virtual bool IsDone() = 0;
  // Memory of the device.
  virtual std::byte* scratch() = 0;
  virtual int64_t scratch_bytes() const = 0;
};

// What is called has happened when the call returns.
class HostLinkStream final : public LinkStream {
 public:
  explicit HostLinkStream(int64_t scratch_bytes) : scratch_(static_cast<size_t>(scratch_bytes)) {}
  void* handle() const override { return nullptr; }
  void Use() override {}
  void Mark() override {}
  bool IsDone() override { return true; }
  std::byte* scratch() override { return scratch_.data(); }
  int64_t scratch_bytes() const override { return static_cast<int64_t>(scratch_.size()); }

 private:
  std::vector<std::byte> scratch_;
};

}  // namespace penstock
