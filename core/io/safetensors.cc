#include "core/io/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <span>

#include "core/base/checked_size.h"
#include "core/base/quoted.h"
#include "core/io/json.h"

namespace penstock {
namespace {

// The length of the header stands before it.
constexpr int64_t kLengthBytes = 8;
constexpr std::string_view kMetadata = "__metadata__";

// All element types of the format that have whole bytes; those with a DataType are used.
struct ElementType {
  std::string_view name;
  int64_t bytes;
  std::optional<DataType> type;
};

constexpr ElementType kElementTypes[] = {
    {"F32", 4, DataType::kF32},   {"F16", 2, DataType::kF16},   {"BF16", 2, DataType::kBF16},
    {"F64", 8, std::nullopt},     {"I64", 8, std::nullopt},     {"U64", 8, std::nullopt},
    {"I32", 4, std::nullopt},     {"U32", 4, std::nullopt},     {"I16", 2, std::nullopt},
    {"U16", 2, std::nullopt},     {"I8", 1, std::nullopt},      {"U8", 1, std::nullopt},
    {"BOOL", 1, std::nullopt},    {"F8_E4M3", 1, std::nullopt}, {"F8_E5M2", 1, std::nullopt},
    {"F8_E8M0", 1, std::nullopt}, {"C64", 8, std::nullopt}};

const ElementType* FindElementType(std::string_view name) {
  for (const ElementType& type : kElementTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

}  // namespace

// Fills a SafetensorsFile from the bytes it maps.
class SafetensorsParser {
 public:
  explicit SafetensorsParser(SafetensorsFile& out) : out_(out), file_(*out.file_) {}

  absl::Status Run() {
    PENSTOCK_RETURN_IF_ERROR(ReadHeaderLength());
    const std::string_view text(reinterpret_cast<const char*>(file_.data()) + kLengthBytes,
                                static_cast<size_t>(data_begin_ - kLengthBytes));
    PENSTOCK_ASSIGN_OR_RETURN(const auto header,
                              JsonDocument::Parse(absl::StrCat(file_.path(), " (header)"), text,
                                                  SafetensorsFile::kMaxHeaderBytes));
    const JsonValue root = header->root();
    PENSTOCK_RETURN_IF_ERROR(root.CheckObject());
    for (int64_t i = 0; i < root.size(); ++i) {
      const JsonValue member = root.at(i);
      if (member.key() == kMetadata) {
        PENSTOCK_RETURN_IF_ERROR(member.CheckObject());
        continue;
      }
      PENSTOCK_ASSIGN_OR_RETURN(SafetensorsFile::Entry entry, ReadEntry(member));
      out_.tensors_.emplace(std::string(member.key()), std::move(entry));
    }
    return CheckPlaces();
  }

 private:
  template <typename... Parts>
  absl::Status Invalid(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", parts...));
  }

  absl::Status ReadHeaderLength() {
    uint64_t length = 0;
    if (file_.size() < kLengthBytes) {
      return Invalid("is not a safetensors file: it has ", file_.size(), " bytes; ", kLengthBytes,
                     " are expected for the length of the header alone", Abs(kCutShort));
    }
    std::memcpy(&length, file_.data(), sizeof(length));
    const CheckedSize end = CheckedSize(kLengthBytes) + CheckedSize(length);
    if (length < 2 || length > static_cast<uint64_t>(SafetensorsFile::kMaxHeaderBytes)) {
      return Invalid("is not a safetensors file: by its first ", kLengthBytes,
                     " bytes the header has ", length, " bytes; 2 to ",
                     SafetensorsFile::kMaxHeaderBytes, " are expected");
    }
    if (!end.FitsIn(file_.size())) {
      return Invalid("the header needs bytes ", kLengthBytes, "..", *end.value(),
                     " but the file ends at ", file_.size(), Abs(kCutShort));
    }
    data_begin_ = *end.value();
    return absl::OkStatus();
  }

  absl::StatusOr<SafetensorsFile::Entry> ReadEntry(const JsonValue& member) const;
  absl::StatusOr<Shape> ReadShape(const JsonValue& member) const;
  absl::Status CheckPlaces() const;

  SafetensorsFile& out_;
  const MmapFile& file_;
  int64_t data_begin_ = 0;
};

absl::StatusOr<SafetensorsFile::Entry> SafetensorsParser::ReadEntry(const JsonValue& member) const {
  const std::string tensor = absl::StrCat("tensor ", Quoted(member.key()));
  SafetensorsFile::Entry entry;
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view type, member.String("dtype"));
  entry.type = std::string(type);
  const ElementType* element = FindElementType(type);
  if (element == nullptr) {
    return absl::UnimplementedError(absl::StrCat(file_.path(), ": ", tensor,
                                                 " has the element type ", Quoted(type),
                                                 ", which is not known; F32, F16 and BF16 are "
                                                 "supported: convert the model to one of these"));
  }
  PENSTOCK_ASSIGN_OR_RETURN(entry.shape, ReadShape(member));
  CheckedSize bytes(element->bytes);
  for (int i = 0; i < entry.shape.rank(); ++i) bytes = bytes * CheckedSize(entry.shape[i]);
  if (!bytes.value()) {
    return Invalid(tensor, " has the shape ", entry.shape.ToString(), " of ", entry.type,
                   ", which is too large; less than 2^63 bytes are expected");
  }
  entry.bytes = *bytes.value();

  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue offsets, member.Get("data_offsets"));
  if (offsets.size() != 2) return offsets.Unexpected("an array of two integers, begin and end,");
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t begin, offsets.at(0).AsInt());
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t end, offsets.at(1).AsInt());
  const int64_t data_bytes = file_.size() - data_begin_;
  if (begin < 0 || end < begin) {
    return Invalid(tensor, " has the data_offsets [", begin, ", ", end,
                   "]; 0 <= begin <= end is expected");
  }
  if (end > data_bytes) {
    return Invalid(tensor, " needs bytes ", begin, "..", end, " of the data, which has ",
                   data_bytes, Abs(kCutShort));
  }
  if (end - begin != entry.bytes) {
    return Invalid(tensor, " has the data_offsets [", begin, ", ", end, "], ", end - begin,
                   " bytes; its shape ", entry.shape.ToString(), " of ", entry.type, " takes ",
                   entry.bytes);
  }
  entry.offset = data_begin_ + begin;  // at most the file's size
  return entry;
}

absl::StatusOr<Shape> SafetensorsParser::ReadShape(const JsonValue& member) const {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue shape, member.Get("shape"));
  PENSTOCK_RETURN_IF_ERROR(shape.CheckArray());
  if (shape.size() > Shape::kMaxRank) {
    return shape.Unexpected(absl::StrCat("one of at most ", Shape::kMaxRank, " dimensions"));
  }
  std::array<int64_t, Shape::kMaxRank> dims{};
  for (int64_t i = 0; i < shape.size(); ++i) {
    PENSTOCK_ASSIGN_OR_RETURN(const int64_t dim, shape.at(i).AsInt());
    if (dim < 1) return shape.at(i).Unexpected("a size of 1 or more");
    dims[static_cast<size_t>(i)] = dim;
  }
  return Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(shape.size())));
}

absl::Status SafetensorsParser::CheckPlaces() const {
  using Place = const std::pair<const std::string, SafetensorsFile::Entry>*;
  std::vector<Place> places;
  places.reserve(out_.tensors_.size());
  for (const auto& entry : out_.tensors_) places.push_back(&entry);
  std::sort(places.begin(), places.end(), [](Place a, Place b) {
    return a->second.offset != b->second.offset ? a->second.offset < b->second.offset
                                                : a->first < b->first;
  });
  int64_t end = data_begin_;
  for (size_t i = 0; i < places.size(); ++i) {
    const auto& [name, entry] = *places[i];
    if (entry.offset < end) {
      return Invalid("tensor ", Quoted(name), " begins at byte ", entry.offset - data_begin_,
                     " of the data, inside tensor ", Quoted(places[i - 1]->first),
                     ", which ends at ", end - data_begin_, "; tensors must not overlap");
    }
    if (entry.offset > end) {
      return Invalid("bytes ", end - data_begin_, "..", entry.offset - data_begin_,
                     " of the data, before tensor ", Quoted(name),
                     ", belong to no tensor; data without gaps are expected");
    }
    end = entry.offset + entry.bytes;
  }
  if (end != file_.size()) {
    return Invalid(file_.size() - end,
                   " bytes at the end belong to no tensor; data without gaps are expected");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  PENSTOCK_ASSIGN_OR_RETURN(std::shared_ptr<MmapFile> file, MmapFile::Open(path));
  return Parse(std::move(file));
}

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Parse(
    std::shared_ptr<MmapFile> file) {
  std::shared_ptr<SafetensorsFile> result(new SafetensorsFile(std::move(file)));
  PENSTOCK_RETURN_IF_ERROR(SafetensorsParser(*result).Run());
  return result;
}

absl::StatusOr<TensorInfo> SafetensorsFile::Describe(std::string_view name) const {
  const auto place = tensors_.find(Abs(name));
  if (place == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat(path(), ": there is no tensor ", Quoted(name)));
  }
  const Entry& entry = place->second;
  const auto type = FindElementType(entry.type)->type;
  if (type) return TensorInfo{place->first, *type, entry.shape};
  return absl::UnimplementedError(
      absl::StrCat(path(), ": tensor ", Quoted(name), " has the element type ", entry.type,
                   "; F32, F16 and BF16 are supported: convert the model to one of these"));
}

absl::StatusOr<Tensor> SafetensorsFile::GetTensor(std::string_view name) const {
  PENSTOCK_ASSIGN_OR_RETURN(const TensorInfo info, Describe(name));
  const Entry& entry = tensors_.find(Abs(name))->second;
  // The mapping is read-only; tensors of weights are never written to.
  auto* data = const_cast<uint8_t*>(file_->data() + entry.offset);
  file_->Prefetch(data, entry.bytes);
  const auto alignment = static_cast<uintptr_t>(Info(info.type).block_bytes);
  if (reinterpret_cast<uintptr_t>(data) % alignment == 0) {
    return Tensor::Share(file_, data, info.type, info.shape);
  }
  const std::shared_ptr<uint8_t[]> copy(new uint8_t[static_cast<size_t>(entry.bytes)]);
  std::memcpy(copy.get(), data, static_cast<size_t>(entry.bytes));
  return Tensor::Share(std::shared_ptr<void>(copy, copy.get()), copy.get(), info.type, info.shape);
}

void SafetensorsFile::Forget(const Tensor& tensor) const {
  const auto* data = static_cast<const uint8_t*>(tensor.raw());
  if (file_->Contains(data)) file_->Forget(data, tensor.bytes());
}

std::vector<std::string_view> SafetensorsFile::TensorNames() const {
  std::vector<std::string_view> names;
  names.reserve(tensors_.size());
  for (const auto& [name, entry] : tensors_) names.emplace_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace penstock
