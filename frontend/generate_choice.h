// GenerateChoice: one of a Generate call's answers: what the engine has made of it and has not been
// sent yet, and its way to messages.
// Thread rule: what is marked "the call's mutex" is guarded by it; the rest belongs to the one
// thread that writes the call's messages.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "frontend/answer_stream.h"
#include "frontend/engine_types.h"
#include "penstock/v1/inference.pb.h"

namespace penstock {

// Tokens of a message, alternatives included: about 1 MiB. Clients take 4 MiB unless they say
// otherwise.
inline constexpr int64_t kLogprobsPerMessage = 1 << 16;

// The next part of a choice's answer.
struct ChoiceWork {
  std::vector<PromptLogprob> prompt;
  std::vector<GeneratedToken> tokens;
  bool last = false;  // the engine has made no more; with these two:
  FinishReason reason = FinishReason::kError;
  absl::Status status;
};

class GenerateChoice {
 public:
  GenerateChoice(const Tokenizer& tokenizer, const CheckedRequest& request, int32_t index);

  // The call's mutex.

  void AddPrompt(std::span<const PromptLogprob> logprobs);
  void AddTokens(std::span<const GeneratedToken> tokens);
  void End(FinishReason reason, const absl::Status& status);
  // What waits here to be sent, about; it is kept, or thrown away because nobody will send it.
  int64_t buffered_bytes() const { return buffered_bytes_; }
  void Discard();
  // The engine has made its last call.
  bool ended() const { return ended_; }
  // The prompt's log-probabilities have all come and been taken.
  bool prompt_told() const { return past_prompt_ && prompt_.empty(); }
  bool HasWork() const { return !prompt_.empty() || !tokens_.empty() || ended_; }
  // Takes what there is, no more than one message may hold.
  ChoiceWork Take();

  // The writer's.

  // Makes a message of it. REQUIRES: !done().
  void Write(const ChoiceWork& work, v1::GenerateResponse* response);
  // Its last message has been made; the engine may not know yet.
  bool done() const { return done_; }
  // How it ended. REQUIRES: done().
  const absl::Status& status() const { return status_; }
  int64_t num_tokens() const { return answer_.num_tokens(); }

 private:
  void Finish(FinishReason reason, const absl::Status& status, v1::GenerateResponse* response);

  const int32_t index_;
  const bool tell_logprobs_;
  const int32_t top_;  // likeliest tokens told beside each
  const int32_t prompt_top_;

  // The call's mutex.
  std::vector<PromptLogprob> prompt_;
  std::vector<GeneratedToken> tokens_;
  int64_t buffered_bytes_ = 0;
  bool past_prompt_ = false;
  bool ended_ = false;
  FinishReason reason_ = FinishReason::kError;
  absl::Status end_status_;

  // The writer's.
  AnswerStream answer_;
  bool done_ = false;
  absl::Status status_;
};

}  // namespace penstock
