// Mutations of protobuf's wire format: fields change their values, numbers, types and places, at
// any depth, and the lengths around them are made right again, but for one time in eight. Each call
// makes one change. Source of the format: protobuf.dev, "Encoding".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/binary_mutator.h"
#include "tests/fuzz/random.h"

namespace penstock::fuzz {

enum WireType : uint64_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct WireField {
  uint64_t tag = 0;     // number * 8 + type
  uint64_t varint = 0;  // of kVarint
  std::string payload;  // of the other types, without its length

  uint64_t type() const { return tag & 7; }
};

inline void PutVarint(std::string& bytes, uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
}

inline std::optional<uint64_t> TakeVarint(std::string_view& bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < 10 && i < bytes.size(); ++i) {
    const auto byte = static_cast<uint8_t>(bytes[i]);
    value |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
    if (byte < 0x80) {
      bytes.remove_prefix(i + 1);
      return value;
    }
  }
  return std::nullopt;
}

// Nothing unless the bytes are fields to their end.
inline std::optional<std::vector<WireField>> ScanWire(std::string_view bytes) {
  std::vector<WireField> fields;
  while (!bytes.empty()) {
    WireField field;
    const auto tag = TakeVarint(bytes);
    if (!tag || *tag < 8) return std::nullopt;
    field.tag = *tag;
    std::optional<uint64_t> length;
    if (field.type() == kVarint) {
      const auto value = TakeVarint(bytes);
      if (!value) return std::nullopt;
      field.varint = *value;
      length = 0;
    } else if (field.type() == kBytes) {
      length = TakeVarint(bytes);
    } else if (field.type() == kFixed64 || field.type() == kFixed32) {
      length = field.type() == kFixed64 ? 8 : 4;
    }
    if (!length || *length > bytes.size()) return std::nullopt;
    field.payload = std::string(bytes.substr(0, *length));
    bytes.remove_prefix(*length);
    fields.push_back(std::move(field));
  }
  return fields;
}

inline void PutField(std::string& bytes, const WireField& field) {
  PutVarint(bytes, field.tag);
  if (field.type() == kVarint) PutVarint(bytes, field.varint);
  if (field.type() == kBytes) PutVarint(bytes, field.payload.size());
  bytes += field.payload;
}

void MutateWire(std::string& bytes, Random& random, const Words& words);

// The value of one field: a number, a message or a text.
inline void MutateValue(WireField& field, Random& random, const Words& words) {
  if (field.type() == kVarint) {
    field.varint = random.Integer(field.varint);
  } else if (field.type() != kBytes) {
    const uint32_t bits = random.Pick(kFloatBits);
    std::memcpy(field.payload.data(), &bits, sizeof(bits));
  } else if (!field.payload.empty() && ScanWire(field.payload)) {
    MutateWire(field.payload, random, words);
  } else if (random.OneIn(2) && !words.empty()) {
    field.payload = random.Pick(words);
  } else {
    MutateBinary(field.payload, random, words);
  }
}

inline void MutateWire(std::string& bytes, Random& random, const Words& words) {
  auto fields = ScanWire(bytes);
  if (!fields || fields->empty()) return MutateBinary(bytes, random, words);
  const size_t at = random.Below(fields->size());
  const auto place = fields->begin() + static_cast<std::ptrdiff_t>(at);
  switch (random.Below(12)) {
    case 0: {
      WireField copy = *place;
      fields->insert(place, std::move(copy));
      break;
    }
    case 1:
      fields->erase(place);
      break;
    case 2:
      std::swap(*place, (*fields)[random.Below(fields->size())]);
      break;
    case 3:  // another field, same type
      place->tag =
          (random.OneIn(8) ? random.Pick(kBoundaries) : random.Below(48)) << 3 | place->type();
      break;
    case 4:  // another type, of the same bytes
      place->tag = (place->tag & ~uint64_t{7}) | random.Below(8);
      break;
    case 5:  // a message inside a message inside …
      for (size_t depth = size_t{1} << random.Below(9); depth > 0; --depth) {
        std::string inner;
        PutField(inner, *place);
        place->tag = (place->tag & ~uint64_t{7}) | kBytes;
        place->payload = std::move(inner);
      }
      break;
    case 6:
      return MutateBinary(bytes, random, words);
    default:
      MutateValue(*place, random, words);
  }
  bytes.clear();
  for (const WireField& field : *fields) {
    if (field.type() == kBytes && random.OneIn(8 * fields->size())) {  // a false length
      PutVarint(bytes, field.tag);
      PutVarint(bytes, random.Integer(field.payload.size()));
      bytes += field.payload;
    } else {
      PutField(bytes, field);
    }
  }
}

}  // namespace penstock::fuzz
