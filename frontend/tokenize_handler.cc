#include "frontend/tokenize_handler.h"

#include <string>
#include <vector>

#include "core/tokenizer/tokenizer.h"
#include "frontend/generate_codec.h"
#include "frontend/prompt_validator.h"

namespace penstock {

absl::StatusOr<v1::TokenizeResponse> Tokenize(const ModelRuntime& runtime,
                                              const v1::TokenizeRequest& request) {
  PENSTOCK_RETURN_IF_ERROR(CheckModel(request.model(), runtime.limits()));
  PENSTOCK_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                            EncodePrompt(DecodePrompt(request), runtime.limits(),
                                         runtime.tokenizer(), runtime.chat_template()));
  v1::TokenizeResponse response;
  response.mutable_ids()->Add(ids.begin(), ids.end());
  return response;
}

absl::StatusOr<v1::DetokenizeResponse> Detokenize(const ModelRuntime& runtime,
                                                  const v1::DetokenizeRequest& request) {
  const RequestLimits& limits = runtime.limits();
  PENSTOCK_RETURN_IF_ERROR(CheckModel(request.model(), limits));
  const std::vector<int32_t> ids(request.ids().begin(), request.ids().end());
  PENSTOCK_RETURN_IF_ERROR(CheckTokenIds("the request", ids, limits));
  StreamingDetokenizer detokenizer(runtime.tokenizer());
  std::string text;
  for (const int32_t id : ids) {
    text += detokenizer.Add(id);
    // An id of one byte may stand for hundreds of a text.
    if (static_cast<int64_t>(text.size()) > limits.max_prompt_bytes) {
      return absl::OutOfRangeError(absl::StrCat("the text of these ", ids.size(),
                                                " ids has more than ", limits.max_prompt_bytes,
                                                " bytes (--max-prompt-bytes): send them in parts"));
    }
  }
  v1::DetokenizeResponse response;
  response.set_text(text + detokenizer.Finish());
  return response;
}

}  // namespace penstock
