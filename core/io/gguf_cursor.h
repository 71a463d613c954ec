// GgufCursor: walks the bytes of a GGUF file. Nothing is read before the file is known to reach
// that far, and nothing is read through a pointer of a larger type: values in the file have no
// alignment. Borrows the file. Not thread-safe.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>

#include "core/base/checked_size.h"
#include "core/base/status.h"
#include "core/io/mmap_file.h"

namespace penstock {

class GgufCursor {
 public:
  // REQUIRES: 0 <= position <= file.size().
  explicit GgufCursor(const MmapFile& file, int64_t position = 0)
      : file_(file), position_(position) {}

  int64_t position() const { return position_; }
  int64_t remaining() const { return file_.size() - position_; }

  // These go past what they name, or return false when the file ends before; Error() then says so.
  bool Skip(CheckedSize bytes) {
    if (!bytes.FitsIn(remaining())) {
      wanted_ = bytes.value();
      return false;
    }
    position_ += *bytes.value();
    return true;
  }
  template <typename T>
  bool Read(T* value) {
    static_assert(std::is_arithmetic_v<T>);
    const uint8_t* data = file_.data() + position_;
    if (!Skip(CheckedSize(static_cast<int64_t>(sizeof(T))))) return false;
    std::memcpy(value, data, sizeof(T));
    return true;
  }
  // A 64-bit length and as many bytes. The view points into the file.
  bool ReadString(std::string_view* text) {
    uint64_t length = 0;
    if (!Read(&length)) return false;
    const auto* data = reinterpret_cast<const char*>(file_.data() + position_);
    if (!Skip(CheckedSize(length))) return false;
    *text = {data, length};
    return true;
  }

  // INVALID_ARGUMENT for the call that has just returned false; `what` was being read.
  absl::Status Error(std::string_view what) const {
    const std::string wanted = wanted_ ? absl::StrCat(*wanted_) : "2^63 or more";
    return absl::InvalidArgumentError(
        absl::StrCat(file_.path(), ": ", Abs(what), " needs ", wanted, " bytes from byte ",
                     position_, " on but the file ends at ", file_.size(), Abs(kCutShort)));
  }

 private:
  const MmapFile& file_;
  int64_t position_;
  std::optional<int64_t> wanted_;
};

}  // namespace penstock
