#include "frontend/json_text.h"

#include <nlohmann/json.hpp>

namespace penstock {

std::string GenerationToJson(const Generation& generation) {
  nlohmann::ordered_json json;
  json["prompt_ids"] = generation.prompt_ids;
  json["ids"] = generation.ids;
  json["text"] = generation.text;
  json["finish_reason"] = generation.finish_reason;
  json["logprobs"] = generation.logprobs;
  // Never throws: what is not UTF-8 in the text is replaced.
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string IdsToJson(const std::vector<int32_t>& ids) { return nlohmann::json(ids).dump(); }

absl::StatusOr<std::string> ParseJsonString(std::string_view line) {
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_string()) {
    return absl::InvalidArgumentError(
        "not a JSON string: write the text in double quotes, for example \"Hello\\nworld\"");
  }
  return json.get<std::string>();
}

}  // namespace penstock
