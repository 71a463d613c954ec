#include "frontend/sampling_request.h"

#include <string>

namespace penstock {

void EncodeSampling(const ClientSampling& sampling, v1::SamplingParams* message) {
  if (sampling.max_tokens) message->set_max_tokens(*sampling.max_tokens);
  if (sampling.temperature) message->set_temperature(*sampling.temperature);
  if (sampling.top_k) message->set_top_k(*sampling.top_k);
  if (sampling.top_p) message->set_top_p(*sampling.top_p);
  if (sampling.min_p) message->set_min_p(*sampling.min_p);
  if (sampling.repetition_penalty) message->set_repetition_penalty(*sampling.repetition_penalty);
  if (sampling.presence_penalty) message->set_presence_penalty(*sampling.presence_penalty);
  if (sampling.frequency_penalty) message->set_frequency_penalty(*sampling.frequency_penalty);
  for (const LogitBias& bias : sampling.logit_bias) {
    (*message->mutable_logit_bias())[bias.token] = bias.bias;
  }
  for (const std::string& text : sampling.stop) message->add_stop(text);
  for (const int32_t id : sampling.stop_ids) message->add_stop_ids(id);
  message->set_include_stop(sampling.include_stop);
  if (sampling.min_tokens) message->set_min_tokens(*sampling.min_tokens);
  message->set_ignore_eos(sampling.ignore_eos);
  if (sampling.n) message->set_n(*sampling.n);
  if (sampling.seed) message->set_seed(*sampling.seed);
  if (sampling.logprobs) message->set_logprobs(*sampling.logprobs);
  if (sampling.prompt_logprobs) message->set_prompt_logprobs(*sampling.prompt_logprobs);
  for (const std::string& word : sampling.bad_words) message->add_bad_words(word);
}

}  // namespace penstock
