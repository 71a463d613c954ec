// Mutations of JSON text that keep it JSON for the most part: numbers, strings, whole values and
// members are replaced, copied, taken out or nested; what is not JSON is still mutated, as far as
// its tokens go. Each call makes one change.
#pragma once

#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/binary_mutator.h"
#include "tests/fuzz/random.h"

namespace penstock::fuzz {

struct JsonToken {
  enum class Kind { kPunctuation, kString, kNumber, kOther };
  size_t begin = 0;
  size_t end = 0;
  Kind kind = Kind::kOther;
};

inline std::vector<JsonToken> ScanJson(std::string_view text) {
  using Kind = JsonToken::Kind;
  const auto in = [](std::string_view set, char c) { return set.find(c) != set.npos; };
  std::vector<JsonToken> tokens;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    JsonToken token{i, i + 1, Kind::kOther};
    if (in(" \t\r\n", c)) {
      ++i;
      continue;
    }
    if (in("{}[],:", c)) {
      token.kind = Kind::kPunctuation;
    } else if (c == '"') {
      token.kind = Kind::kString;
      while (token.end < text.size() && text[token.end] != '"') {
        token.end += text[token.end] == '\\' ? 2 : 1;
      }
      token.end = std::min(token.end + 1, text.size());
    } else {
      const bool number = in("-0123456789", c);
      if (number) token.kind = Kind::kNumber;
      while (token.end < text.size() && !in("{}[],:\" \t\r\n", text[token.end])) ++token.end;
    }
    tokens.push_back(token);
    i = token.end;
  }
  return tokens;
}

class JsonMutation {
 public:
  JsonMutation(std::string& text, Random& random, const Words& words)
      : text_(text), random_(random), words_(words), tokens_(ScanJson(text)) {}

  void Run() {
    const size_t value = AnyValue();
    if (value == tokens_.size()) return MutateBinary(text_, random_, words_);
    const size_t begin = tokens_[value].begin;
    const size_t end = End(value);
    const std::string old = text_.substr(begin, end - begin);
    switch (random_.Below(12)) {
      case 0:
      case 1:
      case 2:
        return ReplaceToken(JsonToken::Kind::kNumber);
      case 3:
      case 4:
        return ReplaceToken(JsonToken::Kind::kString);
      case 5:
        return Replace(begin, end, random_.Pick(kValues));
      case 6: {  // a value of the document instead
        size_t other = AnyValue();
        if (other == tokens_.size()) other = value;
        return Replace(begin, end,
                       text_.substr(tokens_[other].begin, End(other) - tokens_[other].begin));
      }
      case 7:
        return Remove(value);
      case 8:  // once more, with its key
        return Replace(end, end, "," + text_.substr(Key(value), end - Key(value)));
      case 9:
        return Replace(begin, end, Nested(old));
      case 10: {
        const JsonToken& token = random_.Pick(tokens_);
        return Replace(token.begin, token.end, random_.OneIn(2) ? "" : random_.Pick(kPunctuation));
      }
      default:
        return MutateBinary(text_, random_, words_);
    }
  }

 private:
  static constexpr std::string_view kValues[] = {
      "null", "true", "false", "0", "-1", "\"\"", "[]", "{}", "[0]", "[null]", "{\"\":0}", "[[]]"};
  static constexpr std::string_view kPunctuation[] = {"{", "}",  "[",  "]", ",",
                                                      ":", "\"", "//", "\\"};
  static constexpr std::string_view kTexts[] = {"",
                                                "\\u0000",
                                                "\\ud800",
                                                "\\udc00\\ud800",
                                                "\\uffff",
                                                "\\ud83d\\ude00",
                                                "\\",
                                                "\\x",
                                                "../../a",
                                                "/",
                                                "\xff",
                                                "\xed\xa0\x80",
                                                "\xc0\x80",
                                                "\n",
                                                "\x01",
                                                "%s%n",
                                                "\xe2\x96\x81",
                                                " "};

  char At(size_t token) const { return text_[tokens_[token].begin]; }
  bool Is(size_t token, std::string_view set) const {
    return token < tokens_.size() && tokens_[token].kind == JsonToken::Kind::kPunctuation &&
           set.find(At(token)) != set.npos;
  }
  // A token with which a value begins; tokens_.size() when there is none.
  size_t AnyValue() {
    for (int tries = 0; tries < 16 && !tokens_.empty(); ++tries) {
      const size_t token = random_.Below(tokens_.size());
      if (!Is(token, "}],:") && !Is(token + 1, ":")) return token;
    }
    return tokens_.size();
  }
  // Where the value that begins with the token ends.
  size_t End(size_t token) const {
    if (!Is(token, "{[")) return tokens_[token].end;
    size_t depth = 0;
    for (; token < tokens_.size(); ++token) {
      if (Is(token, "{[")) ++depth;
      if (Is(token, "}]") && --depth == 0) return tokens_[token].end;
    }
    return text_.size();
  }
  // Where its member begins: at the key if it has one.
  size_t Key(size_t token) const {
    return token >= 2 && Is(token - 1, ":") ? tokens_[token - 2].begin : tokens_[token].begin;
  }

  void Replace(size_t begin, size_t end, std::string_view with) {
    text_.replace(begin, end - begin, with);
  }
  void Remove(size_t value) {
    const size_t end = End(value);
    const size_t after = text_.find_first_not_of(" \t\r\n", end);
    if (after != text_.npos && text_[after] == ',') return Replace(Key(value), after + 1, "");
    const size_t before =
        Key(value) == 0 ? text_.npos : text_.find_last_not_of(" \t\r\n", Key(value) - 1);
    Replace(before != text_.npos && text_[before] == ',' ? before : Key(value), end, "");
  }
  void ReplaceToken(JsonToken::Kind kind) {
    std::vector<JsonToken> all;
    std::copy_if(tokens_.begin(), tokens_.end(), std::back_inserter(all),
                 [kind](const JsonToken& token) { return token.kind == kind; });
    if (all.empty()) return MutateBinary(text_, random_, words_);
    const JsonToken token = random_.Pick(all);
    if (kind == JsonToken::Kind::kNumber) return Replace(token.begin, token.end, random_.Decimal());
    if (random_.OneIn(3)) {  // of the document: a name that is there already
      const JsonToken other = random_.Pick(all);
      return Replace(token.begin, token.end, text_.substr(other.begin, other.end - other.begin));
    }
    Replace(token.begin, token.end, "\"" + Text() + "\"");
  }
  std::string Text() {
    if (!words_.empty() && !random_.OneIn(3)) return random_.Pick(words_);
    if (random_.OneIn(4)) return std::string(size_t{1} << random_.Below(11), 'a');
    if (random_.OneIn(3)) return random_.Decimal();
    return std::string(random_.Pick(kTexts));
  }
  // Inside 1 to 4,096 arrays or objects.
  std::string Nested(const std::string& value) {
    const size_t depth = size_t{1} << random_.Below(13);
    const bool arrays = random_.OneIn(2);
    std::string nested;
    for (size_t i = 0; i < depth; ++i) nested += arrays ? "[" : "{\"a\":";
    return nested + value + std::string(depth, arrays ? ']' : '}');
  }

  std::string& text_;
  Random& random_;
  const Words& words_;
  const std::vector<JsonToken> tokens_;
};

inline void MutateJson(std::string& text, Random& random, const Words& words) {
  JsonMutation(text, random, words).Run();
}

}  // namespace penstock::fuzz
