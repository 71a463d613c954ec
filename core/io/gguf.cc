#include "core/io/gguf.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/base/check.h"
#include "core/base/checked_size.h"
#include "core/io/gguf_cursor.h"
#include "core/io/gguf_format.h"
#include "core/io/gguf_parser.h"

namespace penstock {
namespace {

template <typename T>
T Load(const uint8_t* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

// Nothing if the value is above 2^63 - 1. REQUIRES: IsGgufInteger(type).
std::optional<int64_t> LoadInteger(uint32_t type, const uint8_t* data) {
  switch (type) {
    case kGgufU8:
      return Load<uint8_t>(data);
    case kGgufI8:
      return Load<int8_t>(data);
    case kGgufU16:
      return Load<uint16_t>(data);
    case kGgufI16:
      return Load<int16_t>(data);
    case kGgufU32:
      return Load<uint32_t>(data);
    case kGgufI32:
      return Load<int32_t>(data);
    case kGgufU64:
      return CheckedSize(Load<uint64_t>(data)).value();
    default:
      return Load<int64_t>(data);
  }
}

}  // namespace

absl::StatusOr<std::shared_ptr<const GgufFile>> GgufFile::Open(const std::string& path) {
  PENSTOCK_ASSIGN_OR_RETURN(std::shared_ptr<MmapFile> file, MmapFile::Open(path));
  return Parse(std::move(file));
}

absl::StatusOr<std::shared_ptr<const GgufFile>> GgufFile::Parse(std::shared_ptr<MmapFile> file) {
  std::shared_ptr<GgufFile> gguf(new GgufFile(std::move(file)));
  PENSTOCK_RETURN_IF_ERROR(GgufParser(*gguf).Run());
  return gguf;
}

absl::StatusOr<const GgufFile::Value*> GgufFile::Find(std::string_view key) const {
  const auto place = values_.find(key);
  if (place == values_.end()) {
    return absl::NotFoundError(absl::StrCat(path(), ": there is no metadata key ", Quoted(key)));
  }
  return &place->second;
}

absl::Status GgufFile::WrongType(std::string_view key, const Value& value,
                                 std::string_view expected) const {
  return absl::InvalidArgumentError(absl::StrCat(
      path(), ": metadata key ", Quoted(key), " is ", value.is_array ? "an array of " : "of type ",
      GgufTypeName(value.type), "; ", Abs(expected), " is expected"));
}

absl::StatusOr<int64_t> GgufFile::GetInt(std::string_view key) const {
  PENSTOCK_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->is_array || !IsGgufInteger(value->type)) return WrongType(key, *value, "an integer");
  const auto integer = LoadInteger(value->type, file_->data() + value->offset);
  if (!integer) return WrongType(key, *value, "an integer below 2^63");
  return *integer;
}

absl::StatusOr<float> GgufFile::GetFloat(std::string_view key) const {
  PENSTOCK_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->is_array || value->type != kGgufF32) return WrongType(key, *value, "an f32");
  return Load<float>(file_->data() + value->offset);
}

absl::StatusOr<bool> GgufFile::GetBool(std::string_view key) const {
  PENSTOCK_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->is_array || value->type != kGgufBool) return WrongType(key, *value, "a bool");
  return file_->data()[value->offset] != 0;
}

absl::StatusOr<std::string_view> GgufFile::GetString(std::string_view key) const {
  PENSTOCK_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->is_array || value->type != kGgufString) return WrongType(key, *value, "a string");
  std::string_view text;
  PENSTOCK_CHECK(GgufCursor(*file_, value->offset).ReadString(&text));  // the parser went past it
  return text;
}

absl::StatusOr<std::vector<std::string_view>> GgufFile::GetStrings(std::string_view key) const {
  PENSTOCK_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (!value->is_array || value->type != kGgufString) {
    return WrongType(key, *value, "an array of strings");
  }
  GgufCursor cursor(*file_, value->offset);
  std::vector<std::string_view> texts(static_cast<size_t>(value->count));
  for (std::string_view& text : texts) {
    PENSTOCK_CHECK(cursor.ReadString(&text));  // the parser went past them
  }
  return texts;
}

absl::StatusOr<std::vector<int64_t>> GgufFile::GetInts(std::string_view key) const {
  PENSTOCK_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (!value->is_array || !IsGgufInteger(value->type)) {
    return WrongType(key, *value, "an array of integers");
  }
  const int64_t stride = *GgufScalarBytes(value->type);
  const uint8_t* data = file_->data() + value->offset;
  std::vector<int64_t> integers;
  integers.reserve(static_cast<size_t>(value->count));
  for (int64_t i = 0; i < value->count; ++i) {
    const auto integer = LoadInteger(value->type, data + i * stride);
    if (!integer) return WrongType(key, *value, "an array of integers below 2^63");
    integers.push_back(*integer);
  }
  return integers;
}

absl::StatusOr<std::vector<float>> GgufFile::GetFloats(std::string_view key) const {
  PENSTOCK_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (!value->is_array || value->type != kGgufF32) return WrongType(key, *value, "an array of f32");
  std::vector<float> floats(static_cast<size_t>(value->count));
  const size_t bytes = floats.size() * sizeof(float);
  if (bytes > 0) std::memcpy(floats.data(), file_->data() + value->offset, bytes);
  return floats;
}

absl::StatusOr<Tensor> GgufFile::GetTensor(std::string_view name) const {
  const auto place = tensors_.find(name);
  if (place == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat(path(), ": there is no tensor ", Quoted(name)));
  }
  return place->second;
}

std::vector<std::string_view> GgufFile::TensorNames() const {
  std::vector<std::string_view> names;
  names.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace penstock
