#include "core/io/tokenizer_json_steps.h"

#include <optional>
#include <vector>

#include "core/base/quoted.h"

namespace penstock {
namespace {

using SpacePrefix = TokenizerSpec::SpacePrefix;
using Step = JsonValue;

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

// The regular expressions under which each pre-tokenizer is published, character by character.
struct Published {
  std::string_view regex;
  std::string_view name;
};
constexpr Published kPublished[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", "gpt-2"},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
     R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "llama-bpe"},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
     R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "qwen2"},
    {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|)"
     R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "tekken"},
};

absl::Status Unsupported(const JsonDocument& document, std::string_view path,
                         const std::string& what) {
  return absl::UnimplementedError(
      absl::StrCat(document.name(), ": ", Abs(path), " ", what, ", which is not supported"));
}

// The steps under `key`: none, one, or those of a Sequence, each an object with a type.
absl::StatusOr<std::vector<Step>> StepsOf(JsonValue root, std::string_view key,
                                          std::string_view list) {
  std::vector<Step> steps;
  const auto step = root.Find(key);
  if (!step) return steps;
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view type, step->String("type"));
  if (type != "Sequence") {
    steps.push_back(*step);
    return steps;
  }
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue inner, step->Get(list));
  PENSTOCK_RETURN_IF_ERROR(inner.CheckArray());
  for (int64_t i = 0; i < inner.size(); ++i) {
    PENSTOCK_RETURN_IF_ERROR(inner.at(i).String("type").status());
    steps.push_back(inner.at(i));
  }
  return steps;
}

// REQUIRES: StepsOf gave it.
std::string_view TypeOf(Step step) { return *step.String("type"); }

class Recogniser {
 public:
  Recogniser(const JsonDocument& document, TokenizerSpec* spec)
      : document_(document), spec_(*spec) {}

  absl::Status Read(JsonValue root) {
    PENSTOCK_ASSIGN_OR_RETURN(const auto normalizers, StepsOf(root, "normalizer", "normalizers"));
    PENSTOCK_ASSIGN_OR_RETURN(const auto steps, StepsOf(root, "pre_tokenizer", "pretokenizers"));
    for (const Step step : normalizers) PENSTOCK_RETURN_IF_ERROR(ReadNormalizer(step));
    if (!steps.empty() && TypeOf(steps.back()) == "ByteLevel") return ReadByteLevel(steps);
    return ReadSpaces(steps);
  }

 private:
  absl::Status Refuse(Step step, const std::string& what) const {
    return Unsupported(document_, step.Path(), what);
  }

  absl::Status ReadNormalizer(Step step);
  absl::Status ReadByteLevel(const std::vector<Step>& steps);
  absl::Status ReadSpaces(const std::vector<Step>& steps);
  absl::StatusOr<std::string_view> ReadSplit(Step step) const;

  const JsonDocument& document_;
  TokenizerSpec& spec_;
  bool prepends_ = false;
  bool replaces_ = false;
};

absl::Status Recogniser::ReadNormalizer(Step step) {
  const std::string_view type = TypeOf(step);
  if (type == "NFC") {
    spec_.normalize_nfc = true;
    return absl::OkStatus();
  }
  if (type == "Prepend" && !replaces_ && !prepends_) {
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view text, step.String("prepend"));
    if (text != kSpaceSymbol) return Refuse(step, "prepends " + Quoted(text));
    prepends_ = true;
    return absl::OkStatus();
  }
  if (type == "Replace" && !replaces_) {
    PENSTOCK_ASSIGN_OR_RETURN(const JsonValue pattern, step.Get("pattern"));
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view from, pattern.StringOr("String", ""));
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view to, step.String("content"));
    if (from != " " || to != kSpaceSymbol) {
      return Refuse(step, "does not replace the space by U+2581");
    }
    replaces_ = true;
    return absl::OkStatus();
  }
  return Refuse(step, "is of type " + Quoted(type) + " or in this place");
}

absl::StatusOr<std::string_view> Recogniser::ReadSplit(Step step) const {
  PENSTOCK_ASSIGN_OR_RETURN(const JsonValue pattern, step.Get("pattern"));
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view regex, pattern.String("Regex"));
  PENSTOCK_ASSIGN_OR_RETURN(const std::string_view behavior, step.String("behavior"));
  PENSTOCK_ASSIGN_OR_RETURN(const bool invert, step.BoolOr("invert", false));
  if (behavior != "Isolated" || invert) {
    return Refuse(step, "does not keep what it matches as pieces of their own");
  }
  for (const Published& each : kPublished) {
    if (each.regex == regex) return each.name;
  }
  return Refuse(step, "splits by " + Quoted(regex));
}

absl::Status Recogniser::ReadByteLevel(const std::vector<Step>& steps) {
  spec_.model = "gpt2";
  const Step last = steps.back();
  if (prepends_ || replaces_) return Refuse(last, "follows a normalizer of sentencepiece's spaces");
  PENSTOCK_ASSIGN_OR_RETURN(const bool prefix, last.BoolOr("add_prefix_space", true));
  if (prefix) return Refuse(last, "puts a space before texts (add_prefix_space)");
  PENSTOCK_ASSIGN_OR_RETURN(const bool use_regex, last.BoolOr("use_regex", true));
  if (steps.size() == 1 && use_regex) {
    spec_.pre_tokenizer = "gpt-2";
    return absl::OkStatus();
  }
  if (steps.size() == 2 && use_regex && TypeOf(steps[0]) == "Digits") {
    PENSTOCK_ASSIGN_OR_RETURN(const bool single, steps[0].BoolOr("individual_digits", false));
    if (!single) return Refuse(steps[0], "keeps numbers whole (individual_digits is not true)");
    spec_.pre_tokenizer = "smollm";
    return absl::OkStatus();
  }
  if (steps.size() == 2 && !use_regex && TypeOf(steps[0]) == "Split") {
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view name, ReadSplit(steps[0]));
    spec_.pre_tokenizer = std::string(name);
    return absl::OkStatus();
  }
  std::string types;
  for (const Step step : steps) absl::StrAppend(&types, " ", Quoted(TypeOf(step)));
  return Unsupported(document_, "pre_tokenizer",
                     absl::StrCat("consists of", types, use_regex ? "" : " without its own regex"));
}

absl::Status Recogniser::ReadSpaces(const std::vector<Step>& steps) {
  spec_.model = "llama";
  if (steps.empty() && replaces_) {
    spec_.space_prefix = prepends_ ? SpacePrefix::kEveryText : SpacePrefix::kNone;
  } else if (steps.size() == 1 && TypeOf(steps[0]) == "Metaspace" && !replaces_ && !prepends_) {
    const Step step = steps[0];
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view symbol, step.String("replacement"));
    PENSTOCK_ASSIGN_OR_RETURN(const bool split, step.BoolOr("split", true));
    PENSTOCK_ASSIGN_OR_RETURN(const std::string_view scheme,
                              step.StringOr("prepend_scheme", "always"));
    if (symbol != kSpaceSymbol) return Refuse(step, "replaces spaces by " + Quoted(symbol));
    if (split) return Refuse(step, "splits texts at spaces (split is not false)");
    if (scheme == "always") {
      spec_.space_prefix = SpacePrefix::kEveryUnspacedText;
    } else if (scheme == "first") {
      spec_.space_prefix = SpacePrefix::kFirstUnspacedText;
    } else if (scheme == "never") {
      spec_.space_prefix = SpacePrefix::kNone;
    } else {
      return Refuse(step, "has the prepend_scheme " + Quoted(scheme));
    }
  } else {
    std::string types;
    for (const Step step : steps) absl::StrAppend(&types, " ", Quoted(TypeOf(step)));
    return Unsupported(document_, "pre_tokenizer",
                       steps.empty()
                           ? "is not there, and neither is a normalizer of sentencepiece's spaces"
                           : absl::StrCat("consists of", types));
  }
  // Its characters would have to be brought into NFC before they become pieces.
  if (spec_.normalize_nfc) {
    return Unsupported(document_, "normalizer", "is NFC before sentencepiece's BPE");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadTokenizerSteps(const JsonDocument& document, TokenizerSpec* spec) {
  return Recogniser(document, spec).Read(document.root());
}

absl::StatusOr<std::string> ReadFirstToken(const JsonDocument& document) {
  PENSTOCK_ASSIGN_OR_RETURN(const auto steps,
                            StepsOf(document.root(), "post_processor", "processors"));
  std::string first;
  for (const Step step : steps) {
    if (TypeOf(step) == "ByteLevel") continue;  // it only moves offsets
    if (TypeOf(step) != "TemplateProcessing" || !first.empty()) {
      return Unsupported(document, step.Path(), "is of type " + Quoted(TypeOf(step)));
    }
    PENSTOCK_ASSIGN_OR_RETURN(const JsonValue single, step.Get("single"));
    PENSTOCK_RETURN_IF_ERROR(single.CheckArray());
    for (int64_t i = 0; i < single.size(); ++i) {
      const JsonValue piece = single.at(i);
      if (piece.Find("Sequence")) {
        if (i + 1 == single.size()) continue;
        return Unsupported(document, single.Path(), "puts tokens after a text");
      }
      PENSTOCK_ASSIGN_OR_RETURN(const JsonValue special, piece.Get("SpecialToken"));
      if (i > 0) {
        return Unsupported(document, single.Path(), "puts several tokens before a text");
      }
      PENSTOCK_ASSIGN_OR_RETURN(const std::string_view id, special.String("id"));
      first = std::string(id);
    }
  }
  return first;
}

}  // namespace penstock
