#include "frontend/json_text.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const TokenLogprob& logprob) {
  return {{"id", logprob.token}, {"logprob", logprob.logprob}};
}

Json ToJson(const std::vector<TokenLogprob>& logprobs) {
  Json list = Json::array();
  for (const TokenLogprob& each : logprobs) list.push_back(ToJson(each));
  return list;
}

void Add(const Choice& choice, Json* json) {
  (*json)["ids"] = choice.ids;
  (*json)["text"] = choice.text;
  (*json)["finish_reason"] = choice.finish_reason;
  (*json)["logprobs"] = choice.logprobs;
  if (!choice.top_logprobs.empty()) {
    Json& list = (*json)["top_logprobs"] = Json::array();
    for (const auto& top : choice.top_logprobs) list.push_back(ToJson(top));
  }
  if (choice.stop_text) (*json)["stop_text"] = *choice.stop_text;
  if (choice.stop_id) (*json)["stop_id"] = *choice.stop_id;
  if (!choice.error.empty()) (*json)["error"] = choice.error;
}

}  // namespace

std::string GenerationToJson(const Generation& generation) {
  Json json;
  json["prompt_ids"] = generation.prompt_ids;
  if (!generation.prompt_logprobs.empty()) {
    Json& list = json["prompt_logprobs"] = Json::array();
    for (const PromptToken& each : generation.prompt_logprobs) {
      Json one = ToJson(each.token);
      if (!each.top.empty()) one["top"] = ToJson(each.top);
      list.push_back(std::move(one));
    }
  }
  if (generation.choices.size() == 1) {
    Add(generation.choices[0], &json);
  } else {
    Json& list = json["choices"] = Json::array();
    for (const Choice& choice : generation.choices) Add(choice, &list.emplace_back(Json::object()));
  }
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
