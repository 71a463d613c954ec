// What a chat template says, apart from how it is written: its tokens as Jinja's lexer sees them,
// with the settings that chat templates are run with (trim_blocks, lstrip_blocks). Two templates of
// one shape render the same. Nothing is executed here. Pure functions, thread-safe.
// Source: the Jinja documentation, "Template Designer Documentation".
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace penstock {

// Longer templates are not looked at; the longest published ones have some 20 KB.
inline constexpr int64_t kMaxTemplateBytes = 1 << 20;

// One line a token: d data, s string, t any other token, b e and v the delimiters; backslashes and
// line breaks in it are escaped. Left out or made one: white space in a tag, comments, kinds of
// quotes, x["name"] and x.name. Nothing for what Jinja's lexer would refuse and for what is not
// UTF-8.
struct TemplateShape {
  std::string tokens;
  // The text X of a string "<|im_start|>system\nX<|im_end|>\n": what a ChatML template says if
  // nobody gives a system message. In `tokens` a single * stands for it, wherever it is a string or
  // part of that one; none if there is no such string, or there are several texts.
  std::optional<std::string> default_system;
};

std::optional<TemplateShape> ShapeOf(std::string_view chat_template);

}  // namespace penstock
