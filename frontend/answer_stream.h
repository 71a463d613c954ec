// AnswerStream: one answer's tokens on their way to text: whole characters, and the end of it all
// where a stop text is complete.
// Thread rule: one thread at a time. The tokenizer must outlive it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tokenizer/tokenizer.h"
#include "frontend/engine_types.h"
#include "frontend/request_validator.h"
#include "frontend/stop_matcher.h"

namespace penstock {

class AnswerStream {
 public:
  struct Piece {
    std::string text;    // what can be given out
    int64_t tokens = 0;  // how many of those taken belong to the answer: all, or up to its end
  };

  AnswerStream(const Tokenizer& tokenizer, const CheckedRequest& request);

  // Takes the next tokens; none of them is looked at behind the one that completes a stop text.
  // The text of a stop id is left out unless the request wants it. REQUIRES: !stopped().
  Piece Add(std::span<const GeneratedToken> tokens);

  // The rest of the text, when no more tokens come; it may still complete a stop text.
  // REQUIRES: !stopped().
  std::string Finish();

  // A stop text is complete: the answer is over, whatever the engine still makes.
  bool stopped() const { return matcher_.stopped(); }
  // REQUIRES: stopped().
  const std::string& stop_text() const { return matcher_.stop(); }
  // The stop id that was the last token, if it was one.
  std::optional<int32_t> stop_id() const { return stop_id_; }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  std::string Match(const std::string& text);

  const std::vector<int32_t> stop_ids_;  // sorted
  const int64_t min_tokens_;
  const bool include_stop_;
  StreamingDetokenizer detokenizer_;
  StopMatcher matcher_;
  int64_t num_tokens_ = 0;
  std::optional<int32_t> stop_id_;
};

}  // namespace penstock
