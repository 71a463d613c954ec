// PreTokenizer: cuts text into the pieces inside which byte-level BPE merges, by the regular
// expression that a vocabulary was trained with. Equal to Hugging Face's `tokenizers`.
// Thread rule: const after Make; any number of callers.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace penstock {

class PreTokenizer {
 public:
  // By the name that GGUF files use: "gpt-2", "smollm", "llama-bpe" (also "llama3", "llama-v3"),
  // "qwen2", "tekken".
  // Errors: UNIMPLEMENTED for any other, naming those that are supported.
  static absl::StatusOr<std::unique_ptr<const PreTokenizer>> Make(std::string_view name);
  ~PreTokenizer();
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  // Appends the pieces of `text` in order. They are views into it, none is empty, and together
  // they are all of it. REQUIRES: text is UTF-8.
  // Errors: INTERNAL when the regular expression gives up (its memory or step limit).
  absl::Status Split(std::string_view text, std::vector<std::string_view>* pieces) const;

 private:
  struct Regex;
  explicit PreTokenizer(std::shared_ptr<const Regex> regex);
  static std::shared_ptr<const Regex> Compile(const char* pattern);

  std::shared_ptr<const Regex> regex_;
};

}  // namespace penstock
