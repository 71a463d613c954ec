#include "core/io/gguf_parser.h"

#include <algorithm>
#include <array>
#include <bit>
#include <span>

#include "core/base/checked_size.h"

namespace penstock {
namespace {

// Limits of the specification, in bytes and dimensions.
constexpr size_t kMaxKeyBytes = 65535;
constexpr size_t kMaxTensorNameBytes = 64;
constexpr uint32_t kMaxDims = 4;
constexpr int64_t kMinAlignment = 8;

// The least that a key (length, one byte, type, one byte) and a tensor's description (length, one
// byte, dimensions' count, one dimension, type, offset) take.
constexpr int64_t kMinKeyBytes = 8 + 1 + 4 + 1;
constexpr int64_t kMinTensorInfoBytes = 8 + 1 + 4 + 8 + 4 + 8;

std::string KeyText(std::string_view key) { return absl::StrCat("metadata key ", Quoted(key)); }

}  // namespace

absl::Status GgufParser::Run() {
  PENSTOCK_RETURN_IF_ERROR(ReadHeader());
  PENSTOCK_RETURN_IF_ERROR(ReadMetadata());
  PENSTOCK_RETURN_IF_ERROR(ReadAlignment());
  PENSTOCK_RETURN_IF_ERROR(ReadTensorInfos());
  return PlaceTensors();
}

absl::Status GgufParser::ReadHeader() {
  const std::string_view start(reinterpret_cast<const char*>(file_.data()),
                               static_cast<size_t>(std::min<int64_t>(file_.size(), 16)));
  if (start.substr(0, kGgufMagic.size()) != kGgufMagic) {
    return Invalid("is not a GGUF model file: it starts with ", Quoted(start), " where ",
                   Quoted(kGgufMagic), " is expected; give the path of a .gguf file");
  }
  uint32_t version = 0;
  uint64_t num_tensors = 0;
  uint64_t num_keys = 0;
  cursor_.Skip(CheckedSize(static_cast<int64_t>(kGgufMagic.size())));
  if (!cursor_.Read(&version)) return cursor_.Error("the version");
  PENSTOCK_RETURN_IF_ERROR(CheckVersion(version));
  if (!cursor_.Read(&num_tensors)) return cursor_.Error("the number of tensors");
  if (!cursor_.Read(&num_keys)) return cursor_.Error("the number of metadata keys");
  const CheckedSize least = CheckedSize(num_keys) * CheckedSize(kMinKeyBytes) +
                            CheckedSize(num_tensors) * CheckedSize(kMinTensorInfoBytes);
  if (!least.FitsIn(cursor_.remaining())) {
    return Invalid("the header promises ", num_keys, " metadata keys and ", num_tensors,
                   " tensors, more than the ", cursor_.remaining(), " bytes after it can hold",
                   Abs(kCutShort));
  }
  num_keys_ = *CheckedSize(num_keys).value();
  num_tensors_ = *CheckedSize(num_tensors).value();
  return absl::OkStatus();
}

absl::Status GgufParser::CheckVersion(uint32_t version) const {
  // Version 3 differs from 2 in nothing but that there may be big-endian files of it.
  if (version == kGgufVersion || version == kGgufOldestVersion) return absl::OkStatus();
  if (version == __builtin_bswap32(kGgufVersion)) {
    return Unsupported(
        "the file is big-endian GGUF; only little-endian files are supported, "
        "convert it again without the big-endian option");
  }
  return Unsupported("the file is GGUF version ", version, "; versions ", kGgufOldestVersion,
                     " and ", kGgufVersion,
                     " are supported, convert the model again with a current converter");
}

absl::Status GgufParser::ReadMetadata() {
  for (int64_t i = 0; i < num_keys_; ++i) {
    std::string_view key;
    if (!cursor_.ReadString(&key)) {
      return cursor_.Error(absl::StrCat("the name of metadata key number ", i));
    }
    if (key.empty() || key.size() > kMaxKeyBytes) {
      return Invalid("the name of metadata key number ", i, " (", Quoted(key), ") has ", key.size(),
                     " bytes; 1 to ", kMaxKeyBytes, " are expected");
    }
    PENSTOCK_ASSIGN_OR_RETURN(const GgufFile::Value value, ReadValue(key));
    if (!out_.values_.try_emplace(key, value).second) {
      return Invalid(KeyText(key), " is there twice; each key is expected once");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufFile::Value> GgufParser::ReadValue(std::string_view key) {
  GgufFile::Value value;
  uint64_t count = 1;
  if (!cursor_.Read(&value.type)) return cursor_.Error(KeyText(key) + "'s type");
  if (value.type == kGgufArray) {
    value.is_array = true;
    if (!cursor_.Read(&value.type)) return cursor_.Error(KeyText(key) + "'s element type");
    if (value.type == kGgufArray) {
      return Unsupported(KeyText(key),
                         " is an array of arrays; only arrays of numbers, bools and "
                         "strings are supported");
    }
    if (!cursor_.Read(&count)) return cursor_.Error(KeyText(key) + "'s number of elements");
  }
  value.offset = cursor_.position();
  PENSTOCK_RETURN_IF_ERROR(SkipElements(key, value.type, count));
  // Fits: the elements are in the file.
  value.count = static_cast<int64_t>(count);
  return value;
}

absl::Status GgufParser::SkipElements(std::string_view key, uint32_t type, uint64_t count) {
  if (type == kGgufString) {
    std::string_view text;
    for (uint64_t i = 0; i < count; ++i) {
      if (!cursor_.ReadString(&text)) {
        return cursor_.Error(absl::StrCat(KeyText(key), ", string ", i, " of ", count, ","));
      }
    }
    return absl::OkStatus();
  }
  const auto bytes = GgufScalarBytes(type);
  if (!bytes) {
    return Invalid(KeyText(key), " has ", GgufTypeName(type), "; types 0 to ",
                   static_cast<uint32_t>(kGgufF64), " are expected");
  }
  const uint8_t* data = file_.data() + cursor_.position();
  if (!cursor_.Skip(CheckedSize(count) * CheckedSize(*bytes))) {
    return cursor_.Error(absl::StrCat(KeyText(key), " (", count, " of ", GgufTypeName(type), ")"));
  }
  if (type == kGgufBool && std::any_of(data, data + count, [](uint8_t b) { return b > 1; })) {
    return Invalid(KeyText(key),
                   " holds a bool that is neither 0 nor 1; the file is damaged, "
                   "fetch it again");
  }
  return absl::OkStatus();
}

absl::Status GgufParser::ReadAlignment() {
  constexpr std::string_view kKey = "general.alignment";
  if (!out_.HasKey(kKey)) return absl::OkStatus();
  PENSTOCK_ASSIGN_OR_RETURN(alignment_, out_.GetInt(kKey));
  // The multiple of 8 also keeps every element where the processor may read it.
  if (alignment_ < kMinAlignment || !std::has_single_bit(static_cast<uint64_t>(alignment_))) {
    return Invalid(KeyText(kKey), " is ", alignment_, "; a power of two of at least ",
                   kMinAlignment, " is expected");
  }
  return absl::OkStatus();
}

absl::Status GgufParser::ReadTensorInfos() {
  for (int64_t i = 0; i < num_tensors_; ++i) {
    PENSTOCK_ASSIGN_OR_RETURN(TensorInfo info, ReadTensorInfo(i));
    infos_.push_back(info);
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufParser::TensorInfo> GgufParser::ReadTensorInfo(int64_t index) {
  TensorInfo info;
  if (!cursor_.ReadString(&info.name)) {
    return cursor_.Error(absl::StrCat("the name of tensor number ", index));
  }
  if (info.name.empty() || info.name.size() > kMaxTensorNameBytes) {
    return Invalid("the name of tensor number ", index, " (", Quoted(info.name), ") has ",
                   info.name.size(), " bytes; 1 to ", kMaxTensorNameBytes, " are expected");
  }
  const std::string tensor = absl::StrCat("tensor ", Quoted(info.name));
  PENSTOCK_ASSIGN_OR_RETURN(info.shape, ReadShape(tensor));
  uint32_t code = 0;
  if (!cursor_.Read(&code)) return cursor_.Error(tensor + "'s type");
  if (!cursor_.Read(&info.offset)) return cursor_.Error(tensor + "'s offset");
  const auto type = GgufElementType(code);
  if (!type) {
    return Unsupported(tensor, " has the element type ", GgufElementTypeName(code),
                       ", which is not supported; ", Abs(kGgufElementTypes),
                       " are: quantize the model to one of these");
  }
  info.type = *type;
  auto bytes = TensorBytes(info.type, info.shape);
  if (!bytes.ok()) return Invalid(tensor, ": ", bytes.status().message());
  info.bytes = *bytes;
  return info;
}

absl::StatusOr<Shape> GgufParser::ReadShape(const std::string& tensor) {
  uint32_t rank = 0;
  if (!cursor_.Read(&rank)) return cursor_.Error(tensor + "'s number of dimensions");
  if (rank == 0 || rank > kMaxDims) {
    return Invalid(tensor, " has ", rank, " dimensions; 1 to ", kMaxDims, " are expected");
  }
  // The file names the innermost dimension first, a Shape the outermost.
  std::array<int64_t, kMaxDims> dims{};
  for (uint32_t i = 0; i < rank; ++i) {
    uint64_t dim = 0;
    if (!cursor_.Read(&dim)) return cursor_.Error(tensor + "'s dimensions");
    const auto size = CheckedSize(dim).value();
    if (!size || *size == 0) {
      return Invalid(tensor, ": dimension ", i, " is ", dim, "; 1 to 2^63 - 1 is expected");
    }
    dims[rank - 1 - i] = *size;
  }
  return Shape(std::span<const int64_t>(dims.data(), rank));
}

absl::Status GgufParser::PlaceTensors() {
  const CheckedSize data_begin = CheckedSize(cursor_.position()).RoundUp(alignment_);
  for (const TensorInfo& info : infos_) {
    if (info.offset % static_cast<uint64_t>(alignment_) != 0) {
      return Invalid("tensor ", Quoted(info.name), " begins at offset ", info.offset,
                     "; a multiple of the alignment ", alignment_, " is expected");
    }
    const CheckedSize begin = data_begin + CheckedSize(info.offset);
    const CheckedSize end = begin + CheckedSize(info.bytes);
    if (!end.FitsIn(file_.size())) {
      const std::string range = end.value()
                                    ? absl::StrCat("bytes ", *begin.value(), "..", *end.value())
                                    : absl::StrCat(info.bytes, " bytes at offset ", info.offset);
      return Invalid("tensor ", Quoted(info.name), " needs ", range, " but the file ends at ",
                     file_.size(), Abs(kCutShort));
    }
    // The mapping is read-only; tensors of weights are never written to.
    auto* data = const_cast<uint8_t*>(file_.data() + *begin.value());
    Tensor tensor = Tensor::Share(out_.file_, data, info.type, info.shape);
    if (!out_.tensors_.try_emplace(info.name, std::move(tensor)).second) {
      return Invalid("tensor ", Quoted(info.name), " is there twice; each name is expected once");
    }
  }
  return CheckOverlaps();
}

// No converter lets tensors share bytes; a file in which they do is damaged or made to deceive.
absl::Status GgufParser::CheckOverlaps() {
  std::sort(infos_.begin(), infos_.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.offset < b.offset; });
  for (size_t i = 1; i < infos_.size(); ++i) {
    const TensorInfo& before = infos_[i - 1];
    // Both end in the file, so that neither sum can wrap.
    if (before.offset + static_cast<uint64_t>(before.bytes) <= infos_[i].offset) continue;
    return Invalid("tensor ", Quoted(infos_[i].name), " begins at offset ", infos_[i].offset,
                   ", inside tensor ", Quoted(before.name), " of ", before.bytes,
                   " bytes at offset ", before.offset, "; tensors must not overlap");
  }
  return absl::OkStatus();
}

}  // namespace penstock
