// ChatTemplate: a conversation as the model was trained to read it. The template that comes with a
// model is a program of a stranger (CVE-2026-5760 ran one), so it is never run: it is recognised
// among the published ones by its shape (template_shape.h), and laid out by our own table
// (chat_layouts.h). An unknown template is refused, unless the user names a layout.
//
// What a message says stays ordinary text: the name of a control token in it does not become one.
// Thread rule: const after Make; any number of readers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/chat_layouts.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

struct ChatTemplateOptions {
  std::string layout;  // one of ChatLayouts(); empty: that of the model's own template
  // What Llama 3.1 and later are told as "Today Date". Fixed, so that a conversation gives the same
  // answer tomorrow; this one is what the published template falls back to.
  std::string date = "26 Jul 2024";
};

// A stretch of a conversation's text.
struct ChatPart {
  std::string text;
  bool control = false;  // of the layout: names of control tokens in it are those tokens
};

class ChatTemplate {
 public:
  // Errors: FAILED_PRECONDITION when the model has no template, or its vocabulary lacks a token of
  // the layout; UNIMPLEMENTED for a template that is not known; INVALID_ARGUMENT for a layout's
  // name that is none. All say what to do.
  static absl::StatusOr<ChatTemplate> Make(const TokenizerSpec& spec,
                                           const ChatTemplateOptions& options = {});

  std::string_view layout() const { return layout_->name; }
  // The system's text if a conversation gives none; empty: nothing is said.
  const std::string& default_system() const { return default_system_; }

  // The conversation's text, up to where the assistant speaks next: what the model's own template
  // renders with add_generation_prompt.
  // Errors: INVALID_ARGUMENT for no message, a role that is not known, or an order of roles that
  // the layout does not have.
  absl::StatusOr<std::vector<ChatPart>> Render(std::span<const ChatMessage> messages) const;

  // Its ids. Errors: those of Render; the tokenizer's.
  absl::StatusOr<std::vector<int32_t>> Encode(std::span<const ChatMessage> messages,
                                              const Tokenizer& tokenizer) const;

 private:
  ChatTemplate(const ChatLayout* layout, std::string default_system, std::string date)
      : layout_(layout), default_system_(std::move(default_system)), date_(std::move(date)) {}

  absl::Status Check(std::span<const ChatMessage> messages) const;

  const ChatLayout* layout_;
  std::string default_system_;
  std::string date_;
};

}  // namespace penstock
