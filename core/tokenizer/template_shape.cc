#include "core/tokenizer/template_shape.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "core/base/utf8.h"

namespace penstock {
namespace {

constexpr std::string_view kSpace = " \t\n\v\f\r";
constexpr std::string_view kSystemBegin = "<|im_start|>system\n";
constexpr std::string_view kSystemEnd = "<|im_end|>\n";

struct Token {
  char kind;
  std::string text;
};

bool IsNameByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool IsName(std::string_view text) {
  if (text.empty() || (text[0] >= '0' && text[0] <= '9')) return false;
  for (const char c : text) {
    if (!IsNameByte(c)) return false;
  }
  return true;
}

bool IsSpace(char c) { return kSpace.find(c) != std::string_view::npos; }

std::string WithPlainLineEnds(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\r') {
      result += text[i];
    } else if (i + 1 == text.size() || text[i + 1] != '\n') {
      result += '\n';
    }
  }
  if (!result.empty() && result.back() == '\n') result.pop_back();
  return result;
}

class Lexer {
 public:
  explicit Lexer(std::string_view text) : rest_(text) {}

  // False for what Jinja refuses.
  bool Run(std::vector<Token>* tokens) {
    tokens_ = tokens;
    while (!rest_.empty()) {
      const size_t open = FindOpen();
      if (open == std::string_view::npos) {
        Data(rest_);
        return true;
      }
      const char kind = rest_[open + 1];
      std::string_view data = rest_.substr(0, open);
      rest_.remove_prefix(open + 2);
      const char sign = rest_.empty() ? '\0' : rest_.front();
      if (sign == '-' || sign == '+') rest_.remove_prefix(1);
      if (sign == '-') {
        while (!data.empty() && IsSpace(data.back())) data.remove_suffix(1);
      } else if (sign != '+' && kind != '{') {
        data = WithoutIndent(data);
      }
      Data(data);
      if (!(kind == '#' ? SkipComment() : Tag(kind))) return false;
    }
    return true;
  }

 private:
  size_t FindOpen() const {
    for (size_t at = rest_.find('{'); at != std::string_view::npos; at = rest_.find('{', at + 1)) {
      if (at + 1 < rest_.size() && std::string_view("{%#").find(rest_[at + 1]) != std::string::npos)
        return at;
    }
    return std::string_view::npos;
  }

  // lstrip_blocks: white space before a tag goes if nothing else is before it on the line.
  std::string_view WithoutIndent(std::string_view data) const {
    const size_t line = data.rfind('\n');
    const size_t begin = line == std::string_view::npos ? 0 : line + 1;
    if (line == std::string_view::npos && !at_line_start_) return data;
    for (size_t i = begin; i < data.size(); ++i) {
      if (!IsSpace(data[i])) return data;
    }
    return data.substr(0, begin);
  }

  void Data(std::string_view data) {
    if (!data.empty()) tokens_->push_back({'d', std::string(data)});
  }

  // Behind the end of a tag that `sign` came before.
  void After(char sign, bool is_block) {
    at_line_start_ = false;
    if (sign == '-') {
      while (!rest_.empty() && IsSpace(rest_.front())) {
        at_line_start_ = rest_.front() == '\n';
        rest_.remove_prefix(1);
      }
    } else if (sign != '+' && is_block && !rest_.empty() && rest_.front() == '\n') {
      at_line_start_ = true;
      rest_.remove_prefix(1);
    }
  }

  bool SkipComment() {
    const size_t close = rest_.find("#}");
    if (close == std::string_view::npos) return false;
    const char sign = close == 0 ? '\0' : rest_[close - 1];
    rest_.remove_prefix(close + 2);
    After(sign, /*is_block=*/true);
    return true;
  }

  bool Tag(char kind) {
    const bool is_block = kind == '%';
    tokens_->push_back({is_block ? 'b' : 'v', ""});
    int depth = 0;  // of brackets, whose braces may look like the tag's end
    while (true) {
      while (!rest_.empty() && IsSpace(rest_.front())) rest_.remove_prefix(1);
      if (rest_.empty()) return false;
      const char sign = rest_.front() == '-' || rest_.front() == '+' ? rest_.front() : '\0';
      const std::string_view end = rest_.substr(sign == '\0' ? 0 : 1, 2);
      if (depth == 0 && end == (is_block ? "%}" : "}}")) {
        rest_.remove_prefix(sign == '\0' ? 2 : 3);
        tokens_->push_back({'e', ""});
        After(sign, is_block);
        return true;
      }
      const char c = rest_.front();
      if (c == '\'' || c == '"') {
        if (!String(c)) return false;
        continue;
      }
      size_t length = 1;
      if (IsNameByte(c)) {
        while (length < rest_.size() && IsNameByte(rest_[length])) ++length;
      } else {
        if (std::string_view("([{").find(c) != std::string_view::npos) ++depth;
        if (std::string_view(")]}").find(c) != std::string_view::npos && --depth < 0) return false;
      }
      tokens_->push_back({'t', std::string(rest_.substr(0, length))});
      rest_.remove_prefix(length);
      JoinSubscript();
    }
  }

  bool String(char quote) {
    std::string text;
    for (size_t i = 1; i < rest_.size(); ++i) {
      char c = rest_[i];
      if (c == quote) {
        rest_.remove_prefix(i + 1);
        tokens_->push_back({'s', std::move(text)});
        return true;
      }
      if (c == '\\' && i + 1 < rest_.size()) {
        c = rest_[++i];
        if (c == 'n') {
          c = '\n';
        } else if (c == 't') {
          c = '\t';
        } else if (c != '\\' && c != '\'' && c != '"') {
          text += '\\';  // the other escapes stay as they are written
        }
      }
      text += c;
    }
    return false;
  }

  // x["name"] becomes x.name.
  void JoinSubscript() {
    std::vector<Token>& tokens = *tokens_;
    const size_t n = tokens.size();
    if (n < 4 || tokens[n - 1].kind != 't' || tokens[n - 1].text != "]") return;
    if (tokens[n - 2].kind != 's' || !IsName(tokens[n - 2].text)) return;
    if (tokens[n - 3].kind != 't' || tokens[n - 3].text != "[") return;
    const Token& before = tokens[n - 4];
    const bool subscript =
        before.kind == 't' && (IsName(before.text) || before.text == "]" || before.text == ")");
    if (!subscript) return;
    tokens.pop_back();
    tokens[n - 2].kind = 't';
    tokens[n - 3].text.assign(1, '.');
  }

  std::string_view rest_;
  bool at_line_start_ = true;  // whether nothing but a line break is before rest_
  std::vector<Token>* tokens_ = nullptr;
};

// The text between kSystemBegin and kSystemEnd; nothing if `text` is not of that form.
std::optional<std::string_view> SystemText(std::string_view text) {
  if (text.size() < kSystemBegin.size() + kSystemEnd.size()) return std::nullopt;
  if (text.substr(0, kSystemBegin.size()) != kSystemBegin) return std::nullopt;
  text.remove_prefix(kSystemBegin.size());
  const size_t length = text.size() - kSystemEnd.size();
  if (text.substr(length) != kSystemEnd) return std::nullopt;
  return text.substr(0, length);
}

std::optional<std::string> FindDefaultSystem(const std::vector<Token>& tokens) {
  std::optional<std::string> found;
  for (const Token& token : tokens) {
    if (token.kind != 's') continue;
    const std::optional<std::string_view> text = SystemText(token.text);
    if (!text) continue;
    if (found && *found != *text) return std::nullopt;
    found = std::string(*text);
  }
  return found;
}

void AppendEscaped(std::string_view text, std::string* out) {
  for (const char c : text) {
    if (c == '\\') {
      *out += "\\\\";
    } else if (c == '\n') {
      *out += "\\n";
    } else {
      *out += c;
    }
  }
}

}  // namespace

std::optional<TemplateShape> ShapeOf(std::string_view chat_template) {
  if (static_cast<int64_t>(chat_template.size()) > kMaxTemplateBytes) return std::nullopt;
  if (FindInvalidUtf8(chat_template)) return std::nullopt;
  const std::string text = WithPlainLineEnds(chat_template);
  std::vector<Token> tokens;
  if (!Lexer(text).Run(&tokens)) return std::nullopt;
  TemplateShape shape;
  shape.default_system = FindDefaultSystem(tokens);
  for (const Token& token : tokens) {
    shape.tokens += token.kind;
    if (token.kind == 's' && shape.default_system && token.text == *shape.default_system) {
      shape.tokens += '*';
    } else if (token.kind == 's' && shape.default_system && SystemText(token.text)) {
      AppendEscaped(kSystemBegin, &shape.tokens);
      shape.tokens += '*';
      AppendEscaped(kSystemEnd, &shape.tokens);
    } else {
      AppendEscaped(token.text, &shape.tokens);
    }
    shape.tokens += '\n';
  }
  return shape;
}

}  // namespace penstock
