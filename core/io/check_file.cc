#include "core/io/check_file.h"

#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <fstream>
#include <utility>

#include "absl/strings/str_join.h"
#include "core/base/hash64.h"
#include "core/io/json.h"
#include "core/model/model_tensors.h"

namespace penstock {
namespace {

constexpr int64_t kFormat = 1;
constexpr int64_t kMaxBytes = int64_t{16} << 20;  // some 100,000 tensors
constexpr int64_t kMaxIds = 4096;
constexpr size_t kHashDigits = 16;

absl::StatusOr<std::vector<int32_t>> ReadIds(const JsonValue& root, std::string_view key) {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue array, root.Get(key));
  PENSTOCK_RETURN_IF_ERROR(array.CheckArray());
  if (array.size() < 1 || array.size() > kMaxIds) {
    return array.Unexpected(absl::StrCat("1 to ", kMaxIds, " token ids"));
  }
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < array.size(); ++i) {
    PENSTOCK_ASSIGN_OR_RETURN(const int64_t id, array.at(i).AsInt());
    if (id < 0 || id >= kMaxVocabSize) return array.at(i).Unexpected("a token id");
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

absl::StatusOr<uint64_t> ReadHash(const JsonValue& value) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view text, value.AsString());
  uint64_t hash = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), hash, 16);
  if (text.size() != kHashDigits || error != std::errc() || end != text.data() + text.size()) {
    return value.Unexpected("a hash of 16 hexadecimal digits");
  }
  return hash;
}

}  // namespace

std::string CheckFilePath(const std::string& model) {
  std::string path = model;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path + ".check.json";
}

absl::StatusOr<ModelCheck> ReadModelCheck(const std::string& path) {
  PENSTOCK_ASSIGN_OR_RETURN(const auto document, JsonDocument::Open(path, kMaxBytes));
  const JsonValue root = document->root();
  PENSTOCK_RETURN_IF_ERROR(root.CheckObject());
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t format, root.Int("format"));
  if (format != kFormat) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": format is ", format, "; ", kFormat,
                     " is expected: write the file again with penstock inspect --write-check"));
  }
  ModelCheck check;
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view precision, root.String("precision"));
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view backend, root.String("backend"));
  check.precision = std::string(precision);
  check.backend = std::string(backend);
  PENSTOCK_ASSIGN_OR_RETURN(check.prompt_ids, ReadIds(root, "prompt_ids"));
  PENSTOCK_ASSIGN_OR_RETURN(check.ids, ReadIds(root, "ids"));
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue tensors, root.Get("tensors"));
  PENSTOCK_RETURN_IF_ERROR(tensors.CheckObject());
  for (int64_t i = 0; i < tensors.size(); ++i) {
    PENSTOCK_ASSIGN_OR_RETURN(check.tensors[std::string(tensors.at(i).key())],
                              ReadHash(tensors.at(i)));
  }
  return check;
}

absl::Status WriteModelCheck(const std::string& path, const ModelCheck& check) {
  // Names of tensors and backends are plain ASCII.
  std::string text = absl::StrCat("{\"format\": ", kFormat, ", \"precision\": \"", check.precision,
                                  "\", \"backend\": \"", check.backend, "\",\n \"prompt_ids\": [",
                                  absl::StrJoin(check.prompt_ids, ", "), "],\n \"ids\": [",
                                  absl::StrJoin(check.ids, ", "), "],\n \"tensors\": {");
  std::string_view separator = "\n";
  for (const auto& [name, hash] : check.tensors) {
    absl::StrAppend(&text, Abs(separator), "  \"", name, "\": \"",
                    absl::Hex(hash, absl::kZeroPad16), "\"");
    separator = ",\n";
  }
  text += "\n}}\n";
  const std::string temporary = absl::StrCat(path, ".", getpid());
  std::ofstream file(temporary);
  file << text;
  file.close();
  if (!file || rename(temporary.c_str(), path.c_str()) != 0) {
    unlink(temporary.c_str());
    return absl::InvalidArgumentError(
        absl::StrCat("cannot write the check file ", path, ": is the model's folder writable?"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::map<std::string, uint64_t>> HashTensors(const WeightSource& source,
                                                            const ModelConfig& config) {
  std::map<std::string, uint64_t> hashes;
  for (const ModelTensor& tensor : ModelTensors(config)) {
    PENSTOCK_ASSIGN_OR_RETURN(const Tensor bytes, source.Get(tensor.name, tensor.shape));
    hashes[tensor.name] = Hash64(bytes.raw(), bytes.bytes());
    source.Forget(bytes);
  }
  return hashes;
}

}  // namespace penstock
