// The JSON that comes with models: config.json, tokenizer.json, the header of safetensors. A
// document is parsed once, whole, with limits on its size and depth; keys that come twice are
// refused, for readers differ in which of them they believe. Errors name the file and the place,
// and show text from it escaped.
// Thread rule: const after it is parsed; any number of readers. A JsonValue is a view: the document
// must outlive it and every string_view it hands out.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace penstock {

class JsonDocument;

class JsonValue {
 public:
  enum class Type : uint8_t { kNull, kBool, kInteger, kNumber, kString, kArray, kObject };

  Type type() const;
  bool is_array() const { return type() == Type::kArray; }
  bool is_object() const { return type() == Type::kObject; }
  bool is_string() const { return type() == Type::kString; }

  // Elements of an array or members of an object, in the document's order; 0 for anything else.
  int64_t size() const;
  // REQUIRES: 0 <= i < size().
  JsonValue at(int64_t i) const;
  // The name of a member; empty for anything else.
  std::string_view key() const;

  // The member of that name; nothing if there is none, if it is null (what the writers of these
  // files mean by "not set"), or if this is no object.
  std::optional<JsonValue> Find(std::string_view key) const;
  // Whether there is such a member, be it null.
  bool Has(std::string_view key) const { return FindNode(key) >= 0; }

  // The value itself. Errors: INVALID_ARGUMENT, "config.json: rope_scaling.factor is 'x'; a number
  // is expected". A number is finite, for JSON has no other; an integer is also a number.
  absl::StatusOr<int64_t> AsInt() const;
  absl::StatusOr<double> AsNumber() const;
  absl::StatusOr<bool> AsBool() const;
  absl::StatusOr<std::string_view> AsString() const;
  absl::Status CheckArray() const;
  absl::Status CheckObject() const;

  // A member's value. Errors: as above; INVALID_ARGUMENT if there is none (or null). The ones with
  // a default take it then.
  absl::StatusOr<JsonValue> Get(std::string_view key) const;
  absl::StatusOr<int64_t> Int(std::string_view key) const;
  absl::StatusOr<double> Number(std::string_view key) const;
  absl::StatusOr<bool> Bool(std::string_view key) const;
  absl::StatusOr<std::string_view> String(std::string_view key) const;
  absl::StatusOr<int64_t> IntOr(std::string_view key, int64_t otherwise) const;
  absl::StatusOr<double> NumberOr(std::string_view key, double otherwise) const;
  absl::StatusOr<bool> BoolOr(std::string_view key, bool otherwise) const;
  absl::StatusOr<std::string_view> StringOr(std::string_view key, std::string_view otherwise) const;

  // For errors of the caller's own: "rope_scaling.factor", "merges[3]"; "the document" at the top.
  std::string Path() const;
  // INVALID_ARGUMENT: "FILE: PATH is VALUE; EXPECTED is expected".
  absl::Status Unexpected(std::string_view expected) const;

 private:
  friend class JsonDocument;
  JsonValue(const JsonDocument& document, int32_t node) : document_(&document), node_(node) {}
  std::string Shown() const;
  int32_t FindNode(std::string_view key) const;  // -1: none

  const JsonDocument* document_;
  int32_t node_;
};

class JsonDocument {
 public:
  // A tokenizer.json of 250,000 tokens has some 30 MB; nothing read here nests deeper than 12.
  static constexpr int64_t kMaxBytes = int64_t{64} << 20;
  static constexpr int64_t kMaxDepth = 64;

  // Errors: the system's; INVALID_ARGUMENT for a file above `max_bytes` and what is not JSON.
  static absl::StatusOr<std::unique_ptr<const JsonDocument>> Open(const std::string& path,
                                                                  int64_t max_bytes = kMaxBytes);
  // `name` stands for the file in messages.
  static absl::StatusOr<std::unique_ptr<const JsonDocument>> Parse(std::string name,
                                                                   std::string_view text,
                                                                   int64_t max_bytes = kMaxBytes);
  ~JsonDocument();
  JsonDocument(const JsonDocument&) = delete;
  JsonDocument& operator=(const JsonDocument&) = delete;

  const std::string& name() const { return name_; }
  JsonValue root() const { return {*this, 0}; }

 private:
  friend class JsonValue;
  friend class JsonBuilder;  // in json.cc; fills the document as the parser goes along

  // A stretch of `text_`.
  struct Text {
    uint32_t offset;
    uint32_t length;
  };
  struct Node {
    JsonValue::Type type = JsonValue::Type::kNull;
    int32_t parent = -1;
    Text key = {0, 0};
    union {
      bool boolean;
      int64_t integer = 0;
      double number;
      Text text;
      // Arrays and objects: `children_` from `first` on, in the document's order. Objects have
      // them a second time behind that, sorted by key.
      struct {
        int32_t first;
        int32_t count;
      } children;
    };
  };

  explicit JsonDocument(std::string name) : name_(std::move(name)) {}
  const Node& node(int32_t i) const { return nodes_[static_cast<size_t>(i)]; }
  std::string_view text(Text text) const {
    return std::string_view(text_).substr(text.offset, text.length);
  }
  int32_t child(const Node& node, int64_t i) const {
    return children_[static_cast<size_t>(node.children.first + i)];
  }

  std::string name_;
  std::string text_;  // keys and strings behind each other
  std::vector<Node> nodes_;
  std::vector<int32_t> children_;
};

}  // namespace penstock
