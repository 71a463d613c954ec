#include "core/io/tokenizer_folder.h"

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <system_error>

#include "core/base/quoted.h"
#include "core/base/utf8.h"
#include "core/io/json.h"
#include "core/io/mmap_file.h"
#include "core/io/sentencepiece_model.h"
#include "core/io/tokenizer_file.h"
#include "core/io/tokenizer_json.h"

namespace penstock {
namespace {

using Document = std::unique_ptr<const JsonDocument>;

constexpr int64_t kMaxTemplateBytes = int64_t{1} << 20;

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error) && !error;
}

// The document, or null if there is no such file.
absl::StatusOr<Document> OpenIfThere(const std::string& path) {
  if (!Exists(path)) return Document();
  return JsonDocument::Open(path);
}

absl::StatusOr<TokenizerSpec> ReadVocabulary(const std::string& folder, int64_t vocab_size) {
  const std::string json = folder + "/tokenizer.json";
  const std::string model = folder + "/tokenizer.model";
  const bool has_model = Exists(model);
  if (Exists(json)) {
    PENSTOCK_ASSIGN_OR_RETURN(const Document document, JsonDocument::Open(json));
    absl::StatusOr<TokenizerSpec> spec = ParseTokenizerJson(*document, vocab_size);
    if (!absl::IsUnimplemented(spec.status()) || !has_model) return spec;
  }
  if (has_model) return ReadSentencePieceModel(model, vocab_size);
  return absl::NotFoundError(
      absl::StrCat(folder, " has neither a tokenizer.json nor a tokenizer.model"));
}

// The name under `key`: a string, or an object with its "content". Empty if it is not set.
absl::StatusOr<std::string_view> TokenName(JsonValue root, std::string_view key) {
  const auto value = root.Find(key);
  if (!value) return std::string_view();
  return value->is_object() ? value->String("content") : value->AsString();
}

// The id of the token that `key` names, -1 if it is not set.
absl::StatusOr<int32_t> NamedId(const JsonDocument& config, std::string_view key,
                                const TokenizerSpec& spec) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view name, TokenName(config.root(), key));
  if (name.empty()) return -1;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.tokens[i] == name) return static_cast<int32_t>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(config.name(), ": ", Abs(key), " is ", Quoted(name), ", which is no token"));
}

absl::Status ReadChatTemplate(JsonValue root, TokenizerSpec* spec) {
  const auto value = root.Find("chat_template");
  if (!value) return absl::OkStatus();
  if (!value->is_array()) {
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view text, value->AsString());
    spec->chat_template = std::string(text);
    return absl::OkStatus();
  }
  for (int64_t i = 0; i < value->size(); ++i) {
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view name, value->at(i).String("name"));
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view text, value->at(i).String("template"));
    if (name == "default") spec->chat_template = std::string(text);
  }
  return absl::OkStatus();
}

absl::Status ReadTokenizerConfig(const JsonDocument& config, TokenizerSpec* spec) {
  const JsonValue root = config.root();
  PENSTOCK_RETURN_IF_ERROR(root.CheckObject());
  PENSTOCK_ASSIGN_OR_RETURN(const int32_t bos, NamedId(config, "bos_token", *spec));
  if (bos >= 0 && !spec->add_bos) spec->bos_id = bos;
  PENSTOCK_ASSIGN_OR_RETURN(spec->add_bos, root.BoolOr("add_bos_token", spec->add_bos));
  if (spec->add_bos && bos >= 0) spec->bos_id = bos;
  if (spec->add_bos && spec->bos_id < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.name(), ": add_bos_token is true but there is no bos_token to add"));
  }
  PENSTOCK_ASSIGN_OR_RETURN(const bool add_eos, root.BoolOr("add_eos_token", false));
  if (add_eos) {
    return absl::UnimplementedError(absl::StrCat(
        config.name(), ": add_eos_token is true, which is not supported: no answer could follow"));
  }
  PENSTOCK_ASSIGN_OR_RETURN(const int32_t eos, NamedId(config, "eos_token", *spec));
  if (eos >= 0) spec->end_ids.push_back(eos);
  return ReadChatTemplate(root, spec);
}

absl::Status AddEndId(JsonValue value, TokenizerSpec* spec) {
  PENSTOCK_ASSIGN_OR_RETURN(const int64_t id, value.AsInt());
  const auto size = static_cast<int64_t>(spec->tokens.size());
  if (id < 0 || id >= size) {
    return value.Unexpected(absl::StrCat("an id from 0 to ", size - 1));
  }
  spec->end_ids.push_back(static_cast<int32_t>(id));
  return absl::OkStatus();
}

// True if the file names end ids.
absl::StatusOr<bool> ReadEndIds(const std::string& path, TokenizerSpec* spec) {
  PENSTOCK_ASSIGN_OR_RETURN(const Document config, OpenIfThere(path));
  if (config == nullptr) return false;
  const auto value = config->root().Find("eos_token_id");
  if (!value) return false;
  if (!value->is_array()) PENSTOCK_RETURN_IF_ERROR(AddEndId(*value, spec));
  for (int64_t i = 0; value->is_array() && i < value->size(); ++i) {
    PENSTOCK_RETURN_IF_ERROR(AddEndId(value->at(i), spec));
  }
  return true;
}

absl::Status ReadTemplateFile(const std::string& path, TokenizerSpec* spec) {
  if (!Exists(path)) return absl::OkStatus();
  PENSTOCK_ASSIGN_OR_RETURN(const std::shared_ptr<MmapFile> file, MmapFile::Open(path));
  if (file->size() > kMaxTemplateBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has ", file->size(), " bytes; at most ",
                                                   kMaxTemplateBytes, " are expected"));
  }
  spec->chat_template.assign(reinterpret_cast<const char*>(file->data()),
                             static_cast<size_t>(file->size()));
  if (const std::optional<int64_t> bad = FindInvalidUtf8(spec->chat_template)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not UTF-8: the byte at offset ", *bad, " is wrong"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ReadTokenizerFolder(const std::string& folder, int64_t vocab_size) {
  PENSTOCK_ASSIGN_OR_RETURN(TokenizerSpec spec, ReadVocabulary(folder, vocab_size));
  PENSTOCK_ASSIGN_OR_RETURN(const Document config, OpenIfThere(folder + "/tokenizer_config.json"));
  if (config != nullptr) PENSTOCK_RETURN_IF_ERROR(ReadTokenizerConfig(*config, &spec));
  PENSTOCK_ASSIGN_OR_RETURN(const bool found,
                            ReadEndIds(folder + "/generation_config.json", &spec));
  if (!found) PENSTOCK_RETURN_IF_ERROR(ReadEndIds(folder + "/config.json", &spec).status());
  PENSTOCK_RETURN_IF_ERROR(ReadTemplateFile(folder + "/chat_template.jinja", &spec));
  AddEndIdsByName(&spec);
  return spec;
}

}  // namespace penstock
