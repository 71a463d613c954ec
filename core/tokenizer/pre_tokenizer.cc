#include "core/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <iterator>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_replace.h"
#include "core/base/check.h"

namespace penstock {

namespace {

// Patterns are written with {S}, {L}, {N} and {D} for the insides of character classes: white
// space, letters, numbers, and the numbers that are split into digits; {C} and {c} are tekken's
// capitals and small letters. The classes are spelled out
// because PCRE2 and Hugging Face know different versions of Unicode: PCRE2 10.42 has 14, the
// regular expressions of `tokenizers` 0.23 have 16 and its digit splitter has 17. The ranges below
// are what those versions added. PCRE2's \s would not do either: it holds U+180E, which has not
// been white space since Unicode 6.3. ASCII ranges stand first as they are tested fastest.
constexpr char kSpace[] =
    R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

constexpr char kLetter[] =
    R"(A-Za-z\p{L})"
    R"(\x{1C89}-\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}\x{10D4A}-\x{10D65})"
    R"(\x{10D6F}-\x{10D85}\x{10EC2}-\x{10EC4}\x{1123F}-\x{11240}\x{11380}-\x{11389}\x{1138B})"
    R"(\x{1138E}\x{11390}-\x{113B5}\x{113B7}\x{113D1}\x{113D3}\x{11BC0}-\x{11BE0}\x{11F02})"
    R"(\x{11F04}-\x{11F10}\x{11F12}-\x{11F33}\x{1342F}\x{13441}-\x{13446}\x{13460}-\x{143FA})"
    R"(\x{16100}-\x{1611D}\x{16D40}-\x{16D6C}\x{18CFF}\x{1B132}\x{1B155}\x{1DF25}-\x{1DF2A})"
    R"(\x{1E030}-\x{1E06D}\x{1E4D0}-\x{1E4EB}\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2B739})"
    R"(\x{2EBF0}-\x{2EE5D}\x{31350}-\x{323AF})";

constexpr char kNumber[] =
    R"(0-9\p{N})"
    R"(\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}\x{11F50}-\x{11F59})"
    R"(\x{16130}-\x{16139}\x{16D70}-\x{16D79}\x{1CCF0}-\x{1CCF9}\x{1D2C0}-\x{1D2D3})"
    R"(\x{1E4F0}-\x{1E4F9}\x{1E5F1}-\x{1E5FA})";

constexpr char kNumberSince17[] = R"(\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6})";

// Letters that may stand in the capital part of a tekken word, and in its small part: both hold the
// letters without case and the marks.
constexpr char kCapital[] =
    R"(\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M})"
    R"(\x{897}\x{CF3}\x{ECE}\x{1C89}\x{A7CB}-\x{A7CC}\x{A7DA}\x{A7DC}\x{105C0}-\x{105F3})"
    R"(\x{10D4A}-\x{10D65}\x{10D69}-\x{10D6D}\x{10D6F}\x{10EC2}-\x{10EC4}\x{10EFC}-\x{10EFF})"
    R"(\x{1123F}-\x{11241}\x{11380}-\x{11389}\x{1138B}\x{1138E}\x{11390}-\x{113B5})"
    R"(\x{113B7}-\x{113C0}\x{113C2}\x{113C5}\x{113C7}-\x{113CA}\x{113CC}-\x{113D3})"
    R"(\x{113E1}-\x{113E2}\x{11BC0}-\x{11BE0}\x{11F00}-\x{11F10}\x{11F12}-\x{11F3A})"
    R"(\x{11F3E}-\x{11F42}\x{11F5A}\x{1342F}\x{13440}-\x{13455}\x{13460}-\x{143FA})"
    R"(\x{16100}-\x{1612F}\x{16D40}-\x{16D6C}\x{18CFF}\x{1B132}\x{1B155}\x{1E030}-\x{1E06D})"
    R"(\x{1E08F}\x{1E4D0}-\x{1E4EF}\x{1E5D0}-\x{1E5F0}\x{2B739}\x{2EBF0}-\x{2EE5D})"
    R"(\x{31350}-\x{323AF})";

constexpr char kSmall[] =
    R"(\p{Ll}\p{Lm}\p{Lo}\p{M})"
    R"(\x{897}\x{CF3}\x{ECE}\x{1C8A}\x{A7CD}\x{A7DB}\x{105C0}-\x{105F3}\x{10D4A}-\x{10D4F})"
    R"(\x{10D69}-\x{10D6D}\x{10D6F}-\x{10D85}\x{10EC2}-\x{10EC4}\x{10EFC}-\x{10EFF})"
    R"(\x{1123F}-\x{11241}\x{11380}-\x{11389}\x{1138B}\x{1138E}\x{11390}-\x{113B5})"
    R"(\x{113B7}-\x{113C0}\x{113C2}\x{113C5}\x{113C7}-\x{113CA}\x{113CC}-\x{113D3})"
    R"(\x{113E1}-\x{113E2}\x{11BC0}-\x{11BE0}\x{11F00}-\x{11F10}\x{11F12}-\x{11F3A})"
    R"(\x{11F3E}-\x{11F42}\x{11F5A}\x{1342F}\x{13440}-\x{13455}\x{13460}-\x{143FA})"
    R"(\x{16100}-\x{1612F}\x{16D40}-\x{16D6C}\x{18CFF}\x{1B132}\x{1B155}\x{1DF25}-\x{1DF2A})"
    R"(\x{1E030}-\x{1E06D}\x{1E08F}\x{1E4D0}-\x{1E4EF}\x{1E5D0}-\x{1E5F0}\x{2B739})"
    R"(\x{2EBF0}-\x{2EE5D}\x{31350}-\x{323AF})";

struct Pattern {
  std::string_view name;
  const char* regex;
};

// What llama-bpe, qwen2 and tekken end with: other signs with the line ends behind them, lines that
// are blank, the spaces before a word but for its own, all other spaces.
#define PENSTOCK_REST(signs) "| ?[^{S}{L}{N}]+[" signs "]*|[{S}]*[\\r\\n]+|[{S}]+(?![^{S}])|[{S}]+"

constexpr Pattern kPatterns[] = {
    {"gpt-2", R"('(?:[sdmt]|ll|ve|re)| ?[{L}]+| ?[{N}]+| ?[^{S}{L}{N}]+|[{S}]+(?![^{S}])|[{S}]+)"},
    // Each number is cut out first and gpt-2's pattern then runs on what lies between, so that to
    // the look-ahead a number is the end of the text, and no number takes the space before it.
    {"smollm", R"([{D}]|'(?:[sdmt]|ll|ve|re)| ?[{L}]+| ?[^{S}{L}{D}]+|[{S}]+(?![^{S}{D}])|[{S}]+)"},
    {"llama-bpe",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n{L}{N}]?[{L}]+|[{N}]{1,3})" PENSTOCK_REST(R"(\r\n)")},
    {"qwen2",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n{L}{N}]?[{L}]+|[{N}])" PENSTOCK_REST(R"(\r\n)")},
    {"tekken",
     R"([^\r\n{L}{N}]?[{C}]*[{c}]+|[^\r\n{L}{N}]?[{C}]+[{c}]*|[{N}])" PENSTOCK_REST(R"(\r\n/)")},
};

// Other names under which files ask for the same.
struct Alias {
  std::string_view alias;
  std::string_view name;
};
constexpr Alias kAliases[] = {
    {"llama3", "llama-bpe"},
    {"llama-v3", "llama-bpe"},
};

std::string ErrorText(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

struct PreTokenizer::Regex {
  explicit Regex(pcre2_code* compiled) : code(compiled) {}
  ~Regex() { pcre2_code_free(code); }
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  pcre2_code* code;
};

PreTokenizer::PreTokenizer(std::shared_ptr<const Regex> regex) : regex_(std::move(regex)) {}
PreTokenizer::~PreTokenizer() = default;

std::shared_ptr<const PreTokenizer::Regex> PreTokenizer::Compile(const char* pattern) {
  const std::string regex =
      absl::StrReplaceAll(pattern, {{"{S}", kSpace},
                                    {"{L}", kLetter},
                                    {"{N}", kNumber},
                                    {"{C}", kCapital},
                                    {"{c}", kSmall},
                                    {"{D}", absl::StrCat(kNumber, kNumberSince17)}});
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Anchored: every piece begins where the one before ends.
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, nullptr);
  if (code == nullptr) CheckFailed(__FILE__, __LINE__, regex + ": " + ErrorText(error));
  // Where the machine forbids code made at run time, matching is interpreted, with equal result.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return std::make_shared<const Regex>(code);
}

absl::StatusOr<std::unique_ptr<const PreTokenizer>> PreTokenizer::Make(std::string_view name) {
  for (const Alias& each : kAliases) {
    if (each.alias == name) name = each.name;
  }
  // Compiled once in a program: the classes are large.
  static std::mutex mutex;
  static auto* const compiled = new std::array<std::shared_ptr<const Regex>, std::size(kPatterns)>;
  for (size_t i = 0; i < std::size(kPatterns); ++i) {
    if (kPatterns[i].name != name) continue;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<const Regex>& regex = (*compiled)[i];
    if (regex == nullptr) regex = Compile(kPatterns[i].regex);
    return std::unique_ptr<const PreTokenizer>(new PreTokenizer(regex));
  }
  std::string error = absl::StrCat("pre-tokenizer \"", absl::CHexEscape(Abs(name)),
                                   "\" is not supported; these are:");
  for (const Pattern& each : kPatterns) absl::StrAppend(&error, " ", Abs(each.name));
  return absl::UnimplementedError(error);
}

absl::Status PreTokenizer::Split(std::string_view text,
                                 std::vector<std::string_view>* pieces) const {
  const std::unique_ptr<pcre2_match_data, FreeMatchData> match(pcre2_match_data_create(1, nullptr));
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t at = 0;
  while (at < text.size()) {
    const int count = pcre2_match(regex_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK,
                                  match.get(), nullptr);
    if (count < 0) {
      return absl::InternalError(
          absl::StrCat("the text cannot be cut into words at byte ", at, ": ", ErrorText(count)));
    }
    const size_t end = pcre2_get_ovector_pointer(match.get())[1];
    PENSTOCK_CHECK_LT(at, end);
    pieces->push_back(text.substr(at, end - at));
    at = end;
  }
  return absl::OkStatus();
}

}  // namespace penstock
