// The Tokenize and Detokenize calls. Pure, thread-safe.
#pragma once

#include "core/base/status.h"
#include "frontend/model_runtime.h"
#include "penstock/v1/inference.pb.h"

namespace penstock {

// The ids that Generate would feed for this prompt. Errors: those of EncodePrompt, NOT_FOUND for
// another model.
absl::StatusOr<v1::TokenizeResponse> Tokenize(const ModelRuntime& runtime,
                                              const v1::TokenizeRequest& request);

// Errors: INVALID_ARGUMENT (an id out of range), OUT_OF_RANGE (a text longer than a prompt may be),
// NOT_FOUND (another model).
absl::StatusOr<v1::DetokenizeResponse> Detokenize(const ModelRuntime& runtime,
                                                  const v1::DetokenizeRequest& request);

}  // namespace penstock
