// What chat templates do to the text of a message, by the rules of Python's str. Pure functions,
// thread-safe. REQUIRES: nothing; bytes that are not UTF-8 are no white space.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace penstock {

struct ChatMessage;

// str.strip() and str.rstrip(): all that Unicode calls white space, U+001C to U+001F included.
std::string_view StripSpace(std::string_view text);
std::string_view StripSpaceRight(std::string_view text);

// Qwen3's: the place of the last message by the user that is no tool's response; that of the last
// message if there is none. REQUIRES: there is a message.
size_t LastQuery(std::span<const ChatMessage> messages);

// Qwen3's: an answer as it is laid out. Its reasoning, which ends with </think>, is left out before
// the last query and kept in a block of its own after it; the last message has such a block always.
std::string AnswerWithReasoning(std::string_view content, bool after_query, bool last);

}  // namespace penstock
