// SafetensorsFile: a safetensors file, mapped into memory; its header is parsed and every shape,
// offset and size checked before anything is handed out.
// Source of the format: the safetensors README and the rules of its own reader (a header of 100 MB
// at most; the tensors fill the data without gaps and without overlapping).
// Thread rule: const after Open; any number of readers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/base/status.h"
#include "core/io/mmap_file.h"
#include "core/io/weight_source.h"
#include "core/tensor/tensor.h"

namespace penstock {

class SafetensorsFile {
 public:
  static constexpr int64_t kMaxHeaderBytes = 100'000'000;

  // Errors: those of MmapFile::Open; INVALID_ARGUMENT for what is not a well-formed file, naming
  // the file, the tensor, what was found and what was expected.
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Open(const std::string& path);
  // The same on a file that is mapped already.
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Parse(
      std::shared_ptr<MmapFile> file);

  const std::string& path() const { return file_->path(); }

  const std::shared_ptr<MmapFile>& file() const { return file_; }

  // Type and shape. Errors: NOT_FOUND; UNIMPLEMENTED for an element type other than F32, F16, BF16.
  absl::StatusOr<TensorInfo> Describe(std::string_view name) const;
  // The tensor in place; it keeps the file mapped. One that begins off the alignment of its
  // elements, which no writer of today makes, is copied.
  // Errors: those of Describe.
  absl::StatusOr<Tensor> GetTensor(std::string_view name) const;
  bool HasTensor(std::string_view name) const { return tensors_.contains(Abs(name)); }
  int64_t num_tensors() const { return static_cast<int64_t>(tensors_.size()); }
  // Sorted.
  std::vector<std::string_view> TensorNames() const;
  // For tensors of this file; a copy has nothing to forget.
  void Forget(const Tensor& tensor) const;

 private:
  friend class SafetensorsParser;  // in safetensors.cc

  struct Entry {
    std::string type;  // as the file has it
    Shape shape;
    int64_t offset = 0;  // from the start of the file
    int64_t bytes = 0;
  };

  explicit SafetensorsFile(std::shared_ptr<MmapFile> file) : file_(std::move(file)) {}

  std::shared_ptr<MmapFile> file_;
  absl::flat_hash_map<std::string, Entry> tensors_;
};

}  // namespace penstock
