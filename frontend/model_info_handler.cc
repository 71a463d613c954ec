#include "frontend/model_info_handler.h"

#include "core/base/kv_block.h"

namespace penstock {
namespace {

double Seconds(absl::Duration limit) {
  return limit == absl::InfiniteDuration() ? 0 : absl::ToDoubleSeconds(limit);
}

void SetLimits(const RequestLimits& limits, v1::RequestLimits* message) {
  message->set_max_prompt_bytes(limits.max_prompt_bytes);
  message->set_max_new_tokens(limits.max_new_tokens);
  message->set_default_max_tokens(limits.default_max_tokens);
  message->set_max_chat_messages(limits.max_chat_messages);
  message->set_max_n(limits.max_n);
  message->set_max_logprobs(limits.max_logprobs);
  message->set_max_stop_texts(limits.max_stop_texts);
  message->set_max_stop_bytes(limits.max_stop_bytes);
  message->set_max_stop_ids(limits.max_stop_ids);
  message->set_max_logit_bias(limits.max_logit_bias);
  message->set_max_bad_words(limits.max_bad_words);
  message->set_max_priority(limits.max_priority);
  message->set_default_timeout_seconds(Seconds(limits.default_timeout));
  message->set_max_timeout_seconds(Seconds(limits.max_timeout));
  message->set_max_stream_buffer_bytes(limits.max_stream_buffer_bytes);
  message->set_slow_reader_timeout_seconds(Seconds(limits.slow_reader_timeout));
}

}  // namespace

v1::GetModelInfoResponse ModelInfo(const ModelRuntime& runtime) {
  const ModelConfig& config = runtime.info().config;
  v1::GetModelInfoResponse response;
  response.set_model(runtime.limits().model);
  response.set_architecture(config.architecture);
  response.set_vocab_size(config.vocab_size);
  response.set_context_length(runtime.limits().context_length);
  response.set_num_layers(config.num_layers);
  response.set_hidden_size(config.hidden_size);
  const std::vector<int32_t>& end_ids = runtime.tokenizer().end_ids();
  response.mutable_end_ids()->Add(end_ids.begin(), end_ids.end());
  response.set_precision(std::string(Name(runtime.precision())));
  response.set_num_stages(static_cast<int64_t>(runtime.stages().size()));
  response.set_kv_blocks(runtime.info().num_blocks);
  response.set_kv_block_tokens(kBlockSize);
  response.set_version(PENSTOCK_VERSION);
  response.set_chat(runtime.chat_template().ok());
  SetLimits(runtime.limits(), response.mutable_limits());
  return response;
}

}  // namespace penstock
