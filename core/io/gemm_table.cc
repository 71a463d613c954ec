#include "core/io/gemm_table.h"

#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/hash64.h"
#include "core/io/json.h"

namespace penstock {
namespace {

constexpr int64_t kFormat = 1;
constexpr int64_t kMaxBytes = int64_t{4} << 20;  // some 20,000 products
constexpr int64_t kMaxSize = int64_t{1} << 30;   // of a dimension
constexpr int64_t kMaxName = 256;
constexpr size_t kSplitK = 2;  // in an algorithm

absl::StatusOr<int64_t> ReadInt(const JsonValue& object, std::string_view key, int64_t least,
                                int64_t most) {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue value, object.Get(key));
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t number, value.AsInt());
  if (number >= least && number <= most) return number;
  return value.Unexpected(absl::StrCat("a number from ", least, " to ", most));
}

absl::StatusOr<DataType> ReadType(const JsonValue& object, std::string_view key) {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue value, object.Get(key));
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view name, value.AsString());
  const std::optional<DataType> type = PrecisionByName(name);
  if (type) return *type;
  return value.Unexpected("f32, f16 or bf16");
}

absl::StatusOr<double> ReadTime(const JsonValue& object, std::string_view key) {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue value, object.Get(key));
  PENSTOCK_ASSIGN_OR_RETURN(const double time, value.AsNumber());
  if (time > 0 && time < 1e12) return time;
  return value.Unexpected("a time in microseconds");
}

absl::StatusOr<GemmAlgorithm> ReadAlgorithm(const JsonValue& object) {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue array, object.Get("algorithm"));
  PENSTOCK_RETURN_IF_ERROR(array.CheckArray());
  GemmAlgorithm algorithm;
  if (array.size() != static_cast<int64_t>(algorithm.size())) {
    return array.Unexpected(absl::StrCat(algorithm.size(), " numbers"));
  }
  for (size_t i = 0; i < algorithm.size(); ++i) {
    const JsonValue value = array.at(static_cast<int64_t>(i));
    PENSTOCK_ASSIGN_OR_RETURN(algorithm[i], value.AsInt());
    // Split k may be -1, the library's own choice; the last two are of 16 bits.
    const int64_t least = i == kSplitK ? -1 : 0;
    const int64_t most = i + 2 < algorithm.size() ? INT32_MAX : UINT16_MAX;
    if (algorithm[i] < least || algorithm[i] > most) {
      return value.Unexpected(absl::StrCat("a number from ", least, " to ", most));
    }
  }
  return algorithm;
}

absl::Status ReadProduct(const JsonValue& row, GemmTable* table) {
  PENSTOCK_RETURN_IF_ERROR(row.CheckObject());
  GemmShape shape;
  TunedGemm tuned;
  PENSTOCK_ASSIGN_OR_RETURN(shape.type, ReadType(row, "type"));
  PENSTOCK_ASSIGN_OR_RETURN(shape.out_type, ReadType(row, "out_type"));
  PENSTOCK_ASSIGN_OR_RETURN(shape.in_features, ReadInt(row, "in", 1, kMaxSize));
  PENSTOCK_ASSIGN_OR_RETURN(shape.out_features, ReadInt(row, "out", 1, kMaxSize));
  PENSTOCK_ASSIGN_OR_RETURN(shape.tokens, ReadInt(row, "tokens", 1, kMaxSize));
  PENSTOCK_ASSIGN_OR_RETURN(tuned.algorithm, ReadAlgorithm(row));
  PENSTOCK_ASSIGN_OR_RETURN(tuned.microseconds, ReadTime(row, "us"));
  PENSTOCK_ASSIGN_OR_RETURN(tuned.heuristic_microseconds, ReadTime(row, "heuristic_us"));
  if (table->products.emplace(shape, tuned).second) return absl::OkStatus();
  return row.Unexpected("a product that is not there yet");
}

absl::StatusOr<GemmTable> FromDocument(const JsonDocument& document) {
  const JsonValue root = document.root();
  PENSTOCK_RETURN_IF_ERROR(root.CheckObject());
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t format, root.Int("format"));
  if (format != kFormat) {
    return absl::UnimplementedError(absl::StrCat(document.name(), ": format is ", format, "; ",
                                                 kFormat,
                                                 " is expected: measure again with penstock tune"));
  }
  GemmTable table;
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue gpu, root.Get("gpu"));
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view name, gpu.AsString());
  if (name.empty() || static_cast<int64_t>(name.size()) > kMaxName) {
    return gpu.Unexpected("the name of a GPU");
  }
  table.gpu = std::string(name);
  PENSTOCK_ASSIGN_OR_RETURN(table.library_version, ReadInt(root, "cublaslt", 0, INT32_MAX));
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue products, root.Get("products"));
  PENSTOCK_RETURN_IF_ERROR(products.CheckArray());
  for (int64_t i = 0; i < products.size(); ++i) {
    PENSTOCK_RETURN_IF_ERROR(ReadProduct(products.at(i), &table));
  }
  return table;
}

// What a driver calls a GPU is plain, but nothing promises it.
std::string JsonString(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return quoted + "\"";
}

}  // namespace

const TunedGemm* GemmTable::Find(const GemmShape& shape) const {
  const auto found = products.lower_bound(shape);
  if (found == products.end()) return nullptr;
  GemmShape same = found->first;
  same.tokens = shape.tokens;
  return same == shape && found->first.tokens <= 2 * shape.tokens ? &found->second : nullptr;
}

std::string GemmTableJson(const GemmTable& table) {
  std::string rows;
  for (const auto& [shape, tuned] : table.products) {
    absl::StrAppendFormat(
        &rows,
        "%s\n {\"type\": \"%s\", \"out_type\": \"%s\", \"tokens\": %d, \"in\": %d, \"out\": %d, "
        "\"algorithm\": [%s], \"us\": %.2f, \"heuristic_us\": %.2f}",
        rows.empty() ? "" : ",", Abs(Name(shape.type)), Abs(Name(shape.out_type)), shape.tokens,
        shape.in_features, shape.out_features, absl::StrJoin(tuned.algorithm, ", "),
        tuned.microseconds, tuned.heuristic_microseconds);
  }
  return absl::StrCat("{\"format\": ", kFormat, ", \"gpu\": ", JsonString(table.gpu),
                      ", \"cublaslt\": ", table.library_version, ", \"products\": [", rows, "]}\n");
}

uint64_t GemmTableHash(const GemmTable& table) { return Hash64(GemmTableJson(table)); }

absl::StatusOr<GemmTable> ParseGemmTable(const std::string& name, std::string_view json) {
  PENSTOCK_ASSIGN_OR_RETURN(const auto document, JsonDocument::Parse(name, json, kMaxBytes));
  return FromDocument(*document);
}

absl::StatusOr<GemmTable> ReadGemmTable(const std::string& path) {
  PENSTOCK_ASSIGN_OR_RETURN(const auto document, JsonDocument::Open(path, kMaxBytes));
  return FromDocument(*document);
}

absl::Status WriteGemmTable(const std::string& path, const GemmTable& table) {
  const std::filesystem::path target(path);
  std::error_code ignored;  // the file itself will tell
  if (target.has_parent_path()) std::filesystem::create_directories(target.parent_path(), ignored);
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".part");
  std::ofstream file(temporary);
  file << GemmTableJson(table);
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(temporary, target, error);
  if (file && !error) return absl::OkStatus();
  std::filesystem::remove(temporary, ignored);
  return absl::InvalidArgumentError(absl::StrCat(
      "cannot write ", path, ": name a file in a writable folder with --gemm-table FILE"));
}

std::string DefaultGemmTablePath(const std::string& gpu) {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  std::string cache = variable("XDG_CACHE_HOME");
  const std::string home = variable("HOME");
  if (cache.empty() && !home.empty()) cache = home + "/.cache";
  if (cache.empty()) return "";
  std::string name = gpu;
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '-';
  }
  return absl::StrCat(cache, "/penstock/gemm-", name, ".json");
}

}  // namespace penstock
