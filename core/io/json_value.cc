#include <algorithm>

#include "core/base/check.h"
#include "core/base/quoted.h"
#include "core/io/json.h"

namespace penstock {
namespace {

constexpr std::string_view kInteger = "an integer below 2^63";
constexpr std::string_view kNumber = "a number";
constexpr std::string_view kBool = "true or false";
constexpr std::string_view kString = "a string";

}  // namespace

JsonValue::Type JsonValue::type() const { return document_->node(node_).type; }

int64_t JsonValue::size() const {
  const auto& node = document_->node(node_);
  return node.type == Type::kArray || node.type == Type::kObject ? node.children.count : 0;
}

JsonValue JsonValue::at(int64_t i) const {
  PENSTOCK_CHECK_GE(i, 0);
  PENSTOCK_CHECK_LT(i, size());
  return {*document_, document_->child(document_->node(node_), i)};
}

std::string_view JsonValue::key() const { return document_->text(document_->node(node_).key); }

int32_t JsonValue::FindNode(std::string_view key) const {
  const auto& node = document_->node(node_);
  if (node.type != Type::kObject) return -1;
  const int32_t* first = document_->children_.data() + node.children.first + node.children.count;
  const int32_t* last = first + node.children.count;
  const auto name = [this](int32_t i) { return document_->text(document_->node(i).key); };
  const int32_t* place = std::lower_bound(
      first, last, key, [&](int32_t i, std::string_view wanted) { return name(i) < wanted; });
  return place != last && name(*place) == key ? *place : -1;
}

std::optional<JsonValue> JsonValue::Find(std::string_view key) const {
  const int32_t place = FindNode(key);
  if (place < 0 || document_->node(place).type == Type::kNull) return std::nullopt;
  return JsonValue(*document_, place);
}

absl::StatusOr<int64_t> JsonValue::AsInt() const {
  if (type() != Type::kInteger) return Unexpected(kInteger);
  return document_->node(node_).integer;
}

absl::StatusOr<double> JsonValue::AsNumber() const {
  const auto& node = document_->node(node_);
  if (node.type == Type::kInteger) return static_cast<double>(node.integer);
  if (node.type != Type::kNumber) return Unexpected(kNumber);
  return node.number;
}

absl::StatusOr<bool> JsonValue::AsBool() const {
  if (type() != Type::kBool) return Unexpected(kBool);
  return document_->node(node_).boolean;
}

absl::StatusOr<std::string_view> JsonValue::AsString() const {
  if (type() != Type::kString) return Unexpected(kString);
  return document_->text(document_->node(node_).text);
}

absl::Status JsonValue::CheckArray() const {
  return is_array() ? absl::OkStatus() : Unexpected("an array");
}

absl::Status JsonValue::CheckObject() const {
  return is_object() ? absl::OkStatus() : Unexpected("an object");
}

absl::StatusOr<JsonValue> JsonValue::Get(std::string_view key) const {
  PENSTOCK_RETURN_IF_ERROR(CheckObject());
  if (const auto value = Find(key)) return *value;
  const std::string inside = node_ == 0 ? "" : absl::StrCat(" in ", Path());
  return absl::InvalidArgumentError(
      absl::StrCat(document_->name(), ": there is no ", Quoted(key), inside));
}

absl::StatusOr<int64_t> JsonValue::Int(std::string_view key) const {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue value, Get(key));
  return value.AsInt();
}

absl::StatusOr<double> JsonValue::Number(std::string_view key) const {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue value, Get(key));
  return value.AsNumber();
}

absl::StatusOr<bool> JsonValue::Bool(std::string_view key) const {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue value, Get(key));
  return value.AsBool();
}

absl::StatusOr<std::string_view> JsonValue::String(std::string_view key) const {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue value, Get(key));
  return value.AsString();
}

absl::StatusOr<int64_t> JsonValue::IntOr(std::string_view key, int64_t otherwise) const {
  const auto value = Find(key);
  return value ? value->AsInt() : otherwise;
}

absl::StatusOr<double> JsonValue::NumberOr(std::string_view key, double otherwise) const {
  const auto value = Find(key);
  return value ? value->AsNumber() : otherwise;
}

absl::StatusOr<bool> JsonValue::BoolOr(std::string_view key, bool otherwise) const {
  const auto value = Find(key);
  return value ? value->AsBool() : otherwise;
}

absl::StatusOr<std::string_view> JsonValue::StringOr(std::string_view key,
                                                     std::string_view otherwise) const {
  const auto value = Find(key);
  return value ? value->AsString() : otherwise;
}

std::string JsonValue::Path() const {
  if (node_ == 0) return "the document";
  std::string path;
  for (int32_t i = node_; i != 0; i = document_->node(i).parent) {
    const JsonValue value(*document_, i);
    const int32_t parent = document_->node(i).parent;
    const auto& node = document_->node(parent);
    std::string step;
    if (node.type == Type::kArray) {
      const int32_t* first = document_->children_.data() + node.children.first;
      step = absl::StrCat("[", std::find(first, first + node.children.count, i) - first, "]");
    } else {
      step = Quoted(value.key());
      step = absl::StrCat(parent == 0 ? "" : ".", step.substr(1, step.size() - 2));
    }
    path.insert(0, step);
  }
  return path;
}

std::string JsonValue::Shown() const {
  const auto& node = document_->node(node_);
  switch (node.type) {
    case Type::kNull:
      return "null";
    case Type::kBool:
      return node.boolean ? "true" : "false";
    case Type::kInteger:
      return absl::StrCat(node.integer);
    case Type::kNumber:
      return absl::StrCat(node.number);
    case Type::kString:
      return Quoted(document_->text(node.text));
    case Type::kArray:
      return absl::StrCat("an array of ", node.children.count);
    case Type::kObject:
      return "an object";
  }
  return "";
}

absl::Status JsonValue::Unexpected(std::string_view expected) const {
  return absl::InvalidArgumentError(absl::StrCat(document_->name(), ": ", Path(), " is ", Shown(),
                                                 "; ", Abs(expected), " is expected"));
}

}  // namespace penstock
