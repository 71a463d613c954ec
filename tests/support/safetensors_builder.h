// SafetensorsBuilder: small safetensors files in memory, well-formed unless told otherwise; and a
// folder on disk to put them in. For tests only.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/check.h"
#include "core/base/status.h"
#include "core/io/mmap_file.h"
#include "core/io/safetensors.h"

namespace penstock::testing {

class SafetensorsBuilder {
 public:
  // A tensor with its bytes, behind those that are there.
  SafetensorsBuilder& Tensor(std::string_view name, std::string_view type,
                             const std::vector<int64_t>& shape, const std::vector<uint8_t>& data) {
    std::string dims;
    for (const int64_t dim : shape) absl::StrAppend(&dims, dims.empty() ? "" : ",", dim);
    const size_t begin = data_.size();
    data_.insert(data_.end(), data.begin(), data.end());
    return Entry(name, absl::StrCat(R"({"dtype":")", Abs(type), R"(","shape":[)", dims,
                                    R"(],"data_offsets":[)", begin, ",", data_.size(), "]}"));
  }
  // float32 counting up from `first`.
  SafetensorsBuilder& F32(std::string_view name, const std::vector<int64_t>& shape, float first) {
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    std::vector<uint8_t> data(static_cast<size_t>(count) * sizeof(float));
    for (int64_t i = 0; i < count; ++i) {
      const float value = first + static_cast<float>(i);
      std::memcpy(data.data() + static_cast<size_t>(i) * sizeof(float), &value, sizeof(float));
    }
    return Tensor(name, "F32", shape, data);
  }
  // A member of the header alone, as false as it may be.
  SafetensorsBuilder& Entry(std::string_view name, std::string_view json) {
    absl::StrAppend(&entries_, entries_.empty() ? "" : ",", "\"", Abs(name), "\":", Abs(json));
    return *this;
  }
  SafetensorsBuilder& Data(const std::vector<uint8_t>& data) {
    data_.insert(data_.end(), data.begin(), data.end());
    return *this;
  }

  // The header is padded so that the data begin at a multiple of `alignment`.
  std::vector<uint8_t> Build(size_t alignment = 8) const {
    std::string header = "{" + entries_ + "}";
    while ((header.size() + 8) % alignment != 0) header += ' ';
    return Raw(header.size(), header, data_);
  }
  static std::vector<uint8_t> Raw(uint64_t length, std::string_view header,
                                  const std::vector<uint8_t>& data = {}) {
    std::string bytes(sizeof(length), '\0');
    std::memcpy(bytes.data(), &length, sizeof(length));
    bytes += header;
    bytes.append(data.begin(), data.end());
    return {bytes.begin(), bytes.end()};
  }

 private:
  std::string entries_;
  std::vector<uint8_t> data_;
};

inline absl::StatusOr<std::shared_ptr<const SafetensorsFile>> ParseSafetensors(
    const std::vector<uint8_t>& bytes) {
  return SafetensorsFile::Parse(MmapFile::FromBytes("model.safetensors", bytes));
}

// A folder of its own that is removed at the end, with all that is in it.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "penstock_XXXXXX").string();
    PENSTOCK_CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string Path(std::string_view name) const { return path_ + "/" + std::string(name); }

  // A file in the folder; its path.
  std::string Write(std::string_view name, const std::vector<uint8_t>& bytes) const {
    std::ofstream(Path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return Path(name);
  }
  std::string Write(std::string_view name, std::string_view text) const {
    return Write(name, std::vector<uint8_t>(text.begin(), text.end()));
  }

 private:
  std::string path_;
};

}  // namespace penstock::testing
