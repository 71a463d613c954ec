// ProtobufReader: walks the fields of one message in protobuf's wire format, every length checked
// against the bytes there are. It knows no schema and never descends: a sub-message is a stretch of
// bytes, to be given to another reader.
// Source: the encoding page of the protocol buffers' documentation. Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace penstock {

class ProtobufReader {
 public:
  explicit ProtobufReader(std::string_view message) : message_(message) {}

  enum class WireType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
  struct Field {
    uint32_t number;
    WireType type;
    uint64_t value;          // of numbers, their bits
    std::string_view bytes;  // of kBytes, a view into the message
  };

  // The next field; nothing at the end, and nothing where the message is broken (see ok()).
  std::optional<Field> Next();
  // False once something was no field: a number cut short or too long, a length beyond the end, a
  // group (which nothing has used for long), the field number 0.
  bool ok() const { return ok_; }
  // Where the reader stands, in bytes from the message's beginning: of an error, its field.
  int64_t offset() const { return static_cast<int64_t>(at_); }

 private:
  std::optional<uint64_t> Varint();
  std::optional<uint64_t> Fixed(size_t size);
  std::optional<Field> Broken(size_t at);

  std::string_view message_;
  size_t at_ = 0;
  bool ok_ = true;
};

}  // namespace penstock
