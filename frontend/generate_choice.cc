#include "frontend/generate_choice.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "frontend/generate_codec.h"

namespace penstock {
namespace {

template <typename T>
int64_t Bytes(std::span<const T> entries) {
  int64_t bytes = 0;
  for (const T& entry : entries) {
    bytes += static_cast<int64_t>(sizeof(T) + entry.top.size() * sizeof(TokenLogprob));
  }
  return bytes;
}

// Moves as many of the first entries out as one message may hold of them.
template <typename T>
std::vector<T> TakeSome(std::vector<T>& from, int32_t top) {
  const auto count = std::min(static_cast<int64_t>(from.size()),
                              std::max<int64_t>(kLogprobsPerMessage / (1 + top), 1));
  if (count == static_cast<int64_t>(from.size())) return std::exchange(from, {});
  std::vector<T> taken(std::make_move_iterator(from.begin()),
                       std::make_move_iterator(from.begin() + count));
  from.erase(from.begin(), from.begin() + count);
  return taken;
}

}  // namespace

GenerateChoice::GenerateChoice(const Tokenizer& tokenizer, const CheckedRequest& request,
                               int32_t index)
    : index_(index),
      tell_logprobs_(request.tell_logprobs),
      top_(request.generation.sampling.logprobs),
      prompt_top_(std::max(request.generation.sampling.prompt_logprobs, 0)),
      answer_(tokenizer, request) {}

void GenerateChoice::AddPrompt(std::span<const PromptLogprob> logprobs) {
  prompt_.insert(prompt_.end(), logprobs.begin(), logprobs.end());
  buffered_bytes_ += Bytes(logprobs);
}

void GenerateChoice::AddTokens(std::span<const GeneratedToken> tokens) {
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  buffered_bytes_ += Bytes(tokens);
  past_prompt_ = true;
}

void GenerateChoice::End(FinishReason reason, const absl::Status& status) {
  ended_ = true;
  past_prompt_ = true;
  reason_ = reason;
  end_status_ = status;
}

void GenerateChoice::Discard() {
  prompt_ = {};
  tokens_ = {};
  buffered_bytes_ = 0;
}

ChoiceWork GenerateChoice::Take() {
  ChoiceWork work;
  if (!prompt_.empty()) {
    work.prompt = TakeSome(prompt_, prompt_top_);
    buffered_bytes_ -= Bytes<PromptLogprob>(work.prompt);
    return work;
  }
  work.tokens = TakeSome(tokens_, top_);
  buffered_bytes_ -= Bytes<GeneratedToken>(work.tokens);
  work.last = ended_ && tokens_.empty();
  work.reason = reason_;
  work.status = end_status_;
  return work;
}

void GenerateChoice::Write(const ChoiceWork& work, v1::GenerateResponse* response) {
  response->set_choice(index_);
  EncodePromptLogprobs(work.prompt, response);
  const AnswerStream::Piece piece = answer_.Add(work.tokens);
  EncodeTokens({work.tokens.data(), static_cast<size_t>(piece.tokens)}, tell_logprobs_, top_ > 0,
               response);
  response->set_text(piece.text);
  if (answer_.stopped()) {
    Finish(FinishReason::kStop, absl::OkStatus(), response);
  } else if (work.last) {
    response->mutable_text()->append(answer_.Finish());
    const bool stopped = work.status.ok() && answer_.stopped();
    Finish(stopped ? FinishReason::kStop : work.reason, work.status, response);
  }
}

void GenerateChoice::Finish(FinishReason reason, const absl::Status& status,
                            v1::GenerateResponse* response) {
  done_ = true;
  status_ = status;
  response->set_finish_reason(EncodeFinishReason(reason));
  if (!status.ok()) response->set_error(Message(status));
  if (reason != FinishReason::kStop) return;
  if (answer_.stopped()) {
    response->set_stop_text(answer_.stop_text());
  } else if (answer_.stop_id().has_value()) {
    response->set_stop_id(*answer_.stop_id());
  }
}

}  // namespace penstock
