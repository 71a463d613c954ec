#include "core/tokenizer/chat_template.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "core/base/hash64.h"
#include "core/base/utf8.h"
#include "core/tokenizer/chat_text.h"
#include "core/tokenizer/template_shape.h"

namespace penstock {
namespace {

using System = ChatLayout::System;
using Trim = ChatLayout::Trim;
using TokenType = TokenizerSpec::TokenType;

constexpr size_t kMaxDateBytes = 64;

std::string LayoutNames() {
  std::string names;
  for (const ChatLayout& layout : ChatLayouts()) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", Abs(layout.name));
  }
  return names;
}

// The layout's control tokens are there, so that no message can spell what the layout says.
absl::Status CheckVocabulary(const TokenizerSpec& spec, const ChatLayout& layout) {
  for (const std::string_view name : layout.control) {
    if (name.empty()) continue;
    bool found = false;
    for (size_t i = 0; i < spec.tokens.size() && i < spec.types.size() && !found; ++i) {
      found = spec.tokens[i] == name &&
              (spec.types[i] == TokenType::kControl || spec.types[i] == TokenType::kUserDefined);
    }
    if (!found) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the chat layout ", Abs(layout.name), " needs the control token ", Abs(name),
          ", which the model's vocabulary does not have: name another with --chat-template (",
          LayoutNames(), ")"));
    }
  }
  return absl::OkStatus();
}

// Families that differ in nothing but what the system says by default are named by that.
const ChatLayout* NamedByDefault(const ChatLayout* layout, std::string_view default_system) {
  for (const ChatLayout& each : ChatLayouts()) {
    if (each.user_before == layout->user_before && each.default_system == default_system) {
      return &each;
    }
  }
  return layout;
}

class Writer {
 public:
  void Control(std::string_view text) { Add(text, true); }
  void Plain(std::string_view text) { Add(text, false); }
  std::vector<ChatPart> Take() { return std::move(parts_); }

 private:
  void Add(std::string_view text, bool control) {
    if (text.empty()) return;
    if (parts_.empty() || parts_.back().control != control) parts_.push_back({"", control});
    parts_.back().text.append(text);
  }

  std::vector<ChatPart> parts_;
};

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Make(const TokenizerSpec& spec,
                                                const ChatTemplateOptions& options) {
  if (options.date.size() > kMaxDateBytes || FindInvalidUtf8(options.date)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the chat's date is no text of at most ", kMaxDateBytes,
                     " bytes: write it as in 26 Jul 2024 (--chat-date)"));
  }
  const ChatLayout* layout = nullptr;
  std::string default_system;
  if (!options.layout.empty()) {
    layout = FindChatLayout(options.layout);
    if (layout == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", absl::CHexEscape(options.layout),
                       "\" is no chat layout; these are: ", LayoutNames(), " (--chat-template)"));
    }
    default_system = std::string(layout->default_system);
  } else {
    if (spec.chat_template.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the model has no chat template: give a text prompt, or name the layout that it was "
          "trained on with --chat-template (",
          LayoutNames(), ")"));
    }
    const std::optional<TemplateShape> shape = ShapeOf(spec.chat_template);
    if (shape) layout = ChatLayoutOfShape(Hash64(shape->tokens));
    if (layout == nullptr) {
      return absl::UnimplementedError(absl::StrCat(
          "the model's chat template is none of the known ones, and a template in a file is never "
          "run: name the layout that comes nearest with --chat-template (",
          LayoutNames(), "), or give a text prompt"));
    }
    if (shape->default_system) {
      default_system = *shape->default_system;
      layout = NamedByDefault(layout, default_system);
    }
  }
  PENSTOCK_RETURN_IF_ERROR(CheckVocabulary(spec, *layout));
  return ChatTemplate(layout, std::move(default_system), options.date);
}

absl::Status ChatTemplate::Check(std::span<const ChatMessage> messages) const {
  if (messages.empty()) return absl::InvalidArgumentError("a chat needs at least one message");
  const auto bad = [&](size_t i, std::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("message ", i, " of the chat has the role \"",
                                                   absl::CHexEscape(messages[i].role),
                                                   "\": ", Abs(what)));
  };
  // Places count from behind a system message at the head.
  const size_t head = layout_->system != System::kRefused && messages[0].role == "system" ? 1 : 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      return bad(i, "system, user or assistant is expected");
    }
    if (!layout_->alternate || i < head) continue;
    if (role == "system") {
      return bad(i, head == 0 && layout_->system == System::kRefused
                        ? "this model's chat template has no system messages"
                        : "this model's chat template has it at the beginning only");
    }
    const bool users = (i - head) % 2 == 0;
    if ((role == "user") != users) {
      return bad(i, users ? "user is expected, this model's chat template has user and assistant "
                            "take turns"
                          : "assistant is expected, this model's chat template has user and "
                            "assistant take turns");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ChatPart>> ChatTemplate::Render(
    std::span<const ChatMessage> messages) const {
  PENSTOCK_RETURN_IF_ERROR(Check(messages));
  const ChatLayout& layout = *layout_;
  const bool trims = layout.trim == Trim::kEverybody;
  const auto trim = [&](std::string_view text) { return trims ? StripSpace(text) : text; };

  Writer out;
  out.Control(layout.begin);
  const ChatMessage* system = messages[0].role == "system" ? &messages[0] : nullptr;
  const bool inside = layout.system == System::kFirstUser || layout.system == System::kLastUser;
  if (layout.system == System::kDatedMessage) {
    out.Control(layout.system_before);
    out.Plain("Cutting Knowledge Date: December 2023\nToday Date: ");
    out.Plain(date_);
    out.Plain("\n\n");
    if (system != nullptr) out.Plain(trim(system->content));
    out.Control(layout.system_after);
  } else if (system == nullptr && !default_system_.empty()) {
    out.Control(layout.system_before);
    out.Plain(default_system_);
    out.Control(layout.system_after);
  }

  const bool apart = inside || layout.system == System::kDatedMessage;
  const size_t first = system != nullptr && apart ? 1 : 0;
  const size_t last_query = layout.thinks ? LastQuery(messages) : 0;
  for (size_t i = first; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role == "system") {
      out.Control(layout.system_before);
      out.Plain(trim(message.content));
      out.Control(layout.system_after);
    } else if (message.role == "user") {
      out.Control(layout.user_before);
      const size_t place = layout.system == System::kFirstUser ? first : messages.size() - 1;
      if (!inside || system == nullptr || i != place) {
        out.Plain(trim(message.content));
      } else {
        // The white space around both texts together goes, so an empty message takes the end of
        // what is before it along.
        const std::string_view text = trims ? StripSpaceRight(message.content) : message.content;
        out.Control(layout.system_before);
        out.Plain(system->content);
        out.Control(trims && text.empty() ? StripSpaceRight(layout.system_after)
                                          : layout.system_after);
        out.Plain(text);
      }
      out.Control(layout.user_after);
    } else {
      out.Control(layout.assistant_before);
      if (layout.thinks) {
        out.Plain(AnswerWithReasoning(message.content, i > last_query, i + 1 == messages.size()));
      } else {
        out.Plain(layout.trim == Trim::kNobody ? std::string_view(message.content)
                                               : StripSpace(message.content));
      }
      out.Control(layout.assistant_after);
    }
  }
  out.Control(layout.prompt);
  return out.Take();
}

absl::StatusOr<std::vector<int32_t>> ChatTemplate::Encode(std::span<const ChatMessage> messages,
                                                          const Tokenizer& tokenizer) const {
  // Told by message: an offset into the laid out text would say little.
  for (size_t i = 0; i < messages.size(); ++i) {
    if (const std::optional<int64_t> at = FindInvalidUtf8(messages[i].content)) {
      return absl::InvalidArgumentError(absl::StrCat("message ", i,
                                                     " of the chat is not UTF-8: the "
                                                     "byte at offset ",
                                                     *at, " is wrong"));
    }
  }
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<ChatPart> parts, Render(messages));
  std::vector<TextPart> views;
  views.reserve(parts.size());
  for (const ChatPart& part : parts) views.push_back({part.text, part.control});
  return tokenizer.EncodeParts(views, /*add_bos=*/false);
}

}  // namespace penstock
