#include "core/io/protobuf_reader.h"

namespace penstock {

std::optional<ProtobufReader::Field> ProtobufReader::Next() {
  if (!ok_ || at_ == message_.size()) return std::nullopt;
  const size_t begin = at_;
  const std::optional<uint64_t> tag = Varint();
  if (!tag || *tag >> 3 == 0 || *tag >> 3 > (1U << 29) - 1) return Broken(begin);
  Field field = {static_cast<uint32_t>(*tag >> 3), static_cast<WireType>(*tag & 7), 0, {}};
  std::optional<uint64_t> value;
  switch (field.type) {
    case WireType::kVarint:
    case WireType::kBytes:
      value = Varint();
      break;
    case WireType::kFixed64:
      value = Fixed(8);
      break;
    case WireType::kFixed32:
      value = Fixed(4);
      break;
  }
  if (!value) return Broken(begin);
  field.value = *value;
  if (field.type == WireType::kBytes) {
    if (*value > message_.size() - at_) return Broken(begin);
    field.bytes = message_.substr(at_, *value);
    at_ += *value;
  }
  return field;
}

std::optional<uint64_t> ProtobufReader::Varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && at_ < message_.size(); shift += 7) {
    const auto byte = static_cast<uint8_t>(message_[at_++]);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

std::optional<uint64_t> ProtobufReader::Fixed(size_t size) {
  if (message_.size() - at_ < size) return std::nullopt;
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) {
    value |= static_cast<uint64_t>(static_cast<uint8_t>(message_[at_ + i])) << (8 * i);
  }
  at_ += size;
  return value;
}

std::optional<ProtobufReader::Field> ProtobufReader::Broken(size_t at) {
  ok_ = false;
  at_ = at;
  return std::nullopt;
}

}  // namespace penstock
