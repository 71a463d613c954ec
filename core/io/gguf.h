// GgufFile: a GGUF file of version 2 or 3, mapped into memory, its metadata parsed and every offset
// and size checked before anything is handed out. Source of the format: the GGUF specification
// (ggml documentation, docs/gguf.md). Thread rule: const after Open; any number of readers.
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
#include "core/model/model_config.h"
#include "core/tensor/tensor.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

class GgufFile {
 public:
  // Errors: those of MmapFile::Open; INVALID_ARGUMENT for everything that is not a well-formed
  // GGUF file, naming the file, the key or tensor, and what was expected; UNIMPLEMENTED for a
  // version or an element type that is not supported, naming those that are.
  static absl::StatusOr<std::shared_ptr<const GgufFile>> Open(const std::string& path);
  // The same on a file that is mapped already.
  static absl::StatusOr<std::shared_ptr<const GgufFile>> Parse(std::shared_ptr<MmapFile> file);

  const std::string& path() const { return file_->path(); }
  const std::shared_ptr<MmapFile>& file() const { return file_; }

  // Metadata by key. Errors: NOT_FOUND; INVALID_ARGUMENT when the type differs; both with file
  // and key. Any integer type is taken for an integer if the value fits. Strings are views into
  // the file and live as long as it is mapped.
  absl::StatusOr<int64_t> GetInt(std::string_view key) const;
  absl::StatusOr<float> GetFloat(std::string_view key) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::string_view> GetString(std::string_view key) const;
  absl::StatusOr<std::vector<std::string_view>> GetStrings(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const;
  absl::StatusOr<std::vector<float>> GetFloats(std::string_view key) const;
  bool HasKey(std::string_view key) const { return values_.contains(key); }

  // The tensor under its GGUF name, outermost dimension first, in place. It keeps the file mapped.
  absl::StatusOr<Tensor> GetTensor(std::string_view name) const;
  bool HasTensor(std::string_view name) const { return tensors_.contains(name); }
  int64_t num_tensors() const { return static_cast<int64_t>(tensors_.size()); }
  // Sorted. The views point into the file.
  std::vector<std::string_view> TensorNames() const;

 private:
  friend class GgufParser;

  // A metadata value: its type tag and where its bytes lie. An array has the type of its elements,
  // which stay in the file.
  struct Value {
    uint32_t type = 0;
    bool is_array = false;
    int64_t count = 1;
    int64_t offset = 0;
  };

  explicit GgufFile(std::shared_ptr<MmapFile> file) : file_(std::move(file)) {}
  absl::StatusOr<const Value*> Find(std::string_view key) const;
  absl::Status WrongType(std::string_view key, const Value& value, std::string_view expected) const;

  std::shared_ptr<MmapFile> file_;
  // The names are views into the file.
  absl::flat_hash_map<std::string_view, Value> values_;
  absl::flat_hash_map<std::string_view, Tensor> tensors_;
};

// The model's configuration, read from the metadata of its architecture (llama, as which Mistral
// comes too, qwen2 or qwen3) and from the tensors that there are, and validated.
// Errors: INVALID_ARGUMENT, NOT_FOUND or UNIMPLEMENTED (another architecture, a kind of RoPE
// scaling that is not supported), with the file and the key.
absl::StatusOr<ModelConfig> ReadGgufConfig(const GgufFile& file);

// What a tokenizer is made of, read from the metadata (tokenizer.ggml.*). Behind its tokens come
// unused ones up to `vocab_size`, the rows of the embedding table (0: none). Errors: as above.
absl::StatusOr<TokenizerSpec> ReadGgufTokenizer(const GgufFile& file, int64_t vocab_size = 0);

// The file's tensors under canonical names.
std::unique_ptr<WeightSource> MakeGgufWeightSource(std::shared_ptr<const GgufFile> file);

}  // namespace penstock
