#include "frontend/answer_stream.h"

#include <algorithm>

namespace penstock {

AnswerStream::AnswerStream(const Tokenizer& tokenizer, const CheckedRequest& request)
    : stop_ids_(request.generation.sampling.stop_ids),
      min_tokens_(request.generation.sampling.min_tokens),
      include_stop_(request.include_stop),
      detokenizer_(tokenizer),
      matcher_(request.stop) {}

AnswerStream::Piece AnswerStream::Add(std::span<const GeneratedToken> tokens) {
  Piece piece;
  for (const GeneratedToken& token : tokens) {
    ++piece.tokens;
    ++num_tokens_;
    if (std::binary_search(stop_ids_.begin(), stop_ids_.end(), token.id)) {
      stop_id_ = token.id;
      if (!include_stop_) continue;
    }
    piece.text += Match(detokenizer_.Add(token.id));
    if (stopped()) break;
  }
  return piece;
}

std::string AnswerStream::Finish() {
  std::string text = Match(detokenizer_.Finish());
  return stopped() ? text : text + matcher_.Finish();
}

std::string AnswerStream::Match(const std::string& text) {
  // As many tokens as min_tokens stand before the one that ends the answer.
  std::string ready = matcher_.Add(text, num_tokens_ > min_tokens_);
  if (stopped() && include_stop_) ready += matcher_.stop();
  return ready;
}

}  // namespace penstock
