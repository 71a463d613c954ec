// GgufParser: fills a GgufFile from the bytes it maps. Only gguf.cc uses it. Memory is bounded by
// the file's size: nothing is reserved for a count that the file merely claims.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/io/gguf.h"
#include "core/io/gguf_cursor.h"
#include "core/io/gguf_format.h"

namespace penstock {

class GgufParser {
 public:
  explicit GgufParser(GgufFile& out) : out_(out), file_(*out.file_), cursor_(file_) {}

  // Errors: as GgufFile::Open.
  absl::Status Run();

 private:
  struct TensorInfo {
    std::string_view name;
    DataType type = DataType::kF32;
    Shape shape;
    int64_t bytes = 0;
    uint64_t offset = 0;  // from the start of the tensors' data
  };

  absl::Status ReadHeader();
  absl::Status CheckVersion(uint32_t version) const;
  absl::Status ReadMetadata();
  absl::StatusOr<GgufFile::Value> ReadValue(std::string_view key);
  absl::Status SkipElements(std::string_view key, uint32_t type, uint64_t count);
  absl::Status ReadAlignment();
  absl::Status ReadTensorInfos();
  absl::StatusOr<TensorInfo> ReadTensorInfo(int64_t index);
  absl::StatusOr<Shape> ReadShape(const std::string& tensor);
  absl::Status PlaceTensors();
  absl::Status CheckOverlaps();

  template <typename... Parts>
  absl::Status Invalid(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", parts...));
  }
  template <typename... Parts>
  absl::Status Unsupported(const Parts&... parts) const {
    return absl::UnimplementedError(absl::StrCat(file_.path(), ": ", parts...));
  }

  GgufFile& out_;
  const MmapFile& file_;
  GgufCursor cursor_;
  int64_t num_keys_ = 0;
  int64_t num_tensors_ = 0;
  int64_t alignment_ = kGgufDefaultAlignment;
  std::vector<TensorInfo> infos_;
};

}  // namespace penstock
