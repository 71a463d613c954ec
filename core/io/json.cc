#include "core/io/json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "absl/strings/escaping.h"
#include "core/base/quoted.h"
#include "core/io/mmap_file.h"

namespace penstock {

// What nlohmann's parser reports to: it checks the grammar, numbers and UTF-8, this builds the
// tree. Each method returns false to stop, and error_ then says why.
class JsonBuilder {
 public:
  explicit JsonBuilder(JsonDocument& document) : out_(document) {}

  const std::string& error() const { return error_; }

  bool null() { return Add(JsonValue::Type::kNull) != nullptr; }
  bool boolean(bool value) {
    Add(JsonValue::Type::kBool)->boolean = value;
    return true;
  }
  bool number_integer(int64_t value) {
    Add(JsonValue::Type::kInteger)->integer = value;
    return true;
  }
  bool number_unsigned(uint64_t value) {
    if (value > static_cast<uint64_t>(INT64_MAX)) return number_float(static_cast<double>(value));
    return number_integer(static_cast<int64_t>(value));
  }
  bool number_float(double value, const std::string& /*spelling*/ = "") {
    Add(JsonValue::Type::kNumber)->number = value;
    return true;
  }
  bool string(const std::string& value) {
    Add(JsonValue::Type::kString)->text = Keep(value);
    return true;
  }
  bool binary(const std::vector<uint8_t>&) { return false; }  // no such thing in text

  bool start_object(size_t) { return Begin(JsonValue::Type::kObject); }
  bool start_array(size_t) { return Begin(JsonValue::Type::kArray); }
  bool key(const std::string& name) {
    key_ = Keep(name);
    return true;
  }
  bool end_array() {
    End();
    return true;
  }
  bool end_object();

  template <typename Exception>
  bool parse_error(size_t position, const std::string& /*token*/, const Exception& exception) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: what is wrong"
    std::string_view what = exception.what();
    if (const size_t end = what.find("] "); end != what.npos) what.remove_prefix(end + 2);
    if (what.starts_with("parse error")) {
      if (const size_t end = what.find(": "); end != what.npos) what.remove_prefix(end + 2);
    }
    error_ = absl::StrCat("is not JSON, at byte ", position, ": ",
                          absl::CHexEscape(Abs(what.substr(0, 200))));
    return false;
  }

 private:
  struct Open {
    int32_t node;
    std::vector<int32_t> children;
  };

  JsonDocument::Node* Add(JsonValue::Type type) {
    const auto index = static_cast<int32_t>(out_.nodes_.size());
    JsonDocument::Node node;
    node.type = type;
    if (!open_.empty()) {
      node.parent = open_.back().node;
      open_.back().children.push_back(index);
      if (out_.node(node.parent).type == JsonValue::Type::kObject) node.key = key_;
    }
    out_.nodes_.push_back(node);
    return &out_.nodes_.back();
  }

  JsonDocument::Text Keep(std::string_view text) {
    const auto offset = static_cast<uint32_t>(out_.text_.size());
    out_.text_.append(text);
    return {offset, static_cast<uint32_t>(text.size())};
  }

  bool Begin(JsonValue::Type type) {
    if (static_cast<int64_t>(open_.size()) >= JsonDocument::kMaxDepth) {
      error_ = absl::StrCat("arrays and objects nest more than ", JsonDocument::kMaxDepth,
                            " deep; no file of a model does");
      return false;
    }
    Add(type);
    open_.push_back({static_cast<int32_t>(out_.nodes_.size()) - 1, {}});
    return true;
  }

  void End() {
    const Open& done = open_.back();
    auto& children = out_.nodes_[static_cast<size_t>(done.node)].children;
    children.first = static_cast<int32_t>(out_.children_.size());
    children.count = static_cast<int32_t>(done.children.size());
    out_.children_.insert(out_.children_.end(), done.children.begin(), done.children.end());
    open_.pop_back();
  }

  JsonDocument& out_;
  JsonDocument::Text key_ = {0, 0};
  std::vector<Open> open_;
  std::string error_;
};

bool JsonBuilder::end_object() {
  std::vector<int32_t> sorted = open_.back().children;
  const auto name = [this](int32_t i) { return out_.text(out_.node(i).key); };
  std::sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) { return name(a) < name(b); });
  const auto twin = std::adjacent_find(sorted.begin(), sorted.end(),
                                       [&](int32_t a, int32_t b) { return name(a) == name(b); });
  if (twin != sorted.end()) {
    error_ = absl::StrCat("the key ", Quoted(name(*twin)),
                          " is there twice in one object; each key is expected once");
    return false;
  }
  End();
  out_.children_.insert(out_.children_.end(), sorted.begin(), sorted.end());
  return true;
}

JsonDocument::~JsonDocument() = default;

absl::StatusOr<std::unique_ptr<const JsonDocument>> JsonDocument::Open(const std::string& path,
                                                                       int64_t max_bytes) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::shared_ptr<MmapFile> file, MmapFile::Open(path));
  const std::string_view text(reinterpret_cast<const char*>(file->data()),
                              static_cast<size_t>(file->size()));
  return Parse(path, text, max_bytes);
}

absl::StatusOr<std::unique_ptr<const JsonDocument>> JsonDocument::Parse(std::string name,
                                                                        std::string_view text,
                                                                        int64_t max_bytes) {
  // Offsets into the text and numbers of nodes, at most one a byte, are kept in 32 bits.
  constexpr int64_t kRepresentable = int64_t{1} << 30;
  const int64_t limit = std::min(max_bytes, kRepresentable);
  if (static_cast<int64_t>(text.size()) > limit) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": has ", text.size(), " bytes; at most ",
                                                   limit, " are expected of such a file"));
  }
  std::unique_ptr<JsonDocument> document(new JsonDocument(std::move(name)));
  JsonBuilder builder(*document);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) {
    return absl::InvalidArgumentError(absl::StrCat(document->name(), ": ", builder.error()));
  }
  return document;
}

}  // namespace penstock
