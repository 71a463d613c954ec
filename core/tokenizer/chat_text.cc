#include "core/tokenizer/chat_text.h"

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/base/utf8.h"
#include "core/tokenizer/chat_template.h"

namespace penstock {
namespace {

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndThink = "</think>";
constexpr std::string_view kToolResponse = "<tool_response>";
constexpr std::string_view kEndToolResponse = "</tool_response>";

// Python's str.isspace(), of Unicode's White_Space and the bidirectional classes WS, B and S.
bool IsPythonSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

std::string_view StripLeft(std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (step.kind != Utf8Step::Kind::kCharacter || !IsPythonSpace(step.value)) break;
    text.remove_prefix(static_cast<size_t>(step.length));
  }
  return text;
}

std::string_view StripLines(std::string_view text, bool left, bool right) {
  while (left && !text.empty() && text.front() == '\n') text.remove_prefix(1);
  while (right && !text.empty() && text.back() == '\n') text.remove_suffix(1);
  return text;
}

}  // namespace

std::string_view StripSpaceRight(std::string_view text) {
  while (!text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && text.size() - begin < 4 && (text[begin] & 0xC0) == 0x80) --begin;
    const std::string_view last = text.substr(begin);
    const Utf8Step step = NextUtf8(last);
    const bool space = step.kind == Utf8Step::Kind::kCharacter &&
                       static_cast<size_t>(step.length) == last.size() && IsPythonSpace(step.value);
    if (!space) break;
    text.remove_suffix(last.size());
  }
  return text;
}

std::string_view StripSpace(std::string_view text) { return StripSpaceRight(StripLeft(text)); }

size_t LastQuery(std::span<const ChatMessage> messages) {
  for (size_t i = messages.size(); i-- > 0;) {
    const std::string_view text = messages[i].content;
    const bool response = text.substr(0, kToolResponse.size()) == kToolResponse &&
                          text.size() >= kEndToolResponse.size() &&
                          text.substr(text.size() - kEndToolResponse.size()) == kEndToolResponse;
    if (messages[i].role == "user" && !response) return i;
  }
  return messages.size() - 1;
}

std::string AnswerWithReasoning(std::string_view content, bool after_query, bool last) {
  std::string_view answer = content;
  std::string_view reasoning;
  if (const size_t end = content.find(kEndThink); end != std::string_view::npos) {
    answer = StripLines(content.substr(content.rfind(kEndThink) + kEndThink.size()), true, false);
    reasoning = StripLines(content.substr(0, end), false, true);
    if (const size_t begin = reasoning.rfind(kThink); begin != std::string_view::npos) {
      reasoning.remove_prefix(begin + kThink.size());
    }
    reasoning = StripLines(reasoning, true, false);
  }
  if (!after_query || (!last && reasoning.empty())) return std::string(answer);
  return absl::StrCat("<think>\n", Abs(StripLines(reasoning, true, true)), "\n</think>\n\n",
                      Abs(StripLines(answer, true, false)));
}

}  // namespace penstock
