// The chat layouts that Penstock knows, as data: what a family puts around each message, and the
// published templates that say so. Plain values.
//
// To add one: a row in the table, the hashes of its templates' shapes (tests/golden/
// make_chat_templates.py tells them), a template in that script's list.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace penstock {

struct ChatLayout {
  // Where the first message goes if it is the system's.
  enum class System : uint8_t {
    kMessage,       // a message like the others; more of them may follow
    kFirstUser,     // before the text of the first user message
    kLastUser,      // before the text of the last message, if that is the user's
    kRefused,       // the model knows no system message
    kDatedMessage,  // a message that is always there and begins with dates (Llama 3.1 and later)
  };
  // Whose text loses the white space around it.
  enum class Trim : uint8_t { kNobody, kAssistant, kEverybody };

  std::string_view name = {};
  std::string_view begin = {};  // before the first message
  std::string_view system_before = {}, system_after = {};
  std::string_view user_before = {}, user_after = {};
  std::string_view assistant_before = {}, assistant_after = {};
  std::string_view prompt = {};  // where the assistant speaks next
  System system = System::kMessage;
  Trim trim = Trim::kNobody;
  // User and assistant take turns, the user first.
  bool alternate = false;
  // The reasoning in past answers (<think>...</think>) is left out (Qwen3).
  bool thinks = false;
  // What the system says if the conversation has no such message; empty: nothing.
  std::string_view default_system = {};
  // Control tokens without which the layout could not be told from ordinary text.
  std::array<std::string_view, 3> control = {};
};

std::span<const ChatLayout> ChatLayouts();

// Null if there is none of that name.
const ChatLayout* FindChatLayout(std::string_view name);

// The layout of a template by the hash (Hash64) of its shape's tokens; null if it is not known.
const ChatLayout* ChatLayoutOfShape(uint64_t hash);

}  // namespace penstock
