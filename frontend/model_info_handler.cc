#include "frontend/model_info_handler.h"

#include "core/base/kv_block.h"

namespace penstock {

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
  response.set_precision("f32");
  response.set_num_stages(1);
  response.set_kv_blocks(runtime.info().num_blocks);
  response.set_kv_block_tokens(kBlockSize);
  response.set_version(PENSTOCK_VERSION);
  return response;
}

}  // namespace penstock
