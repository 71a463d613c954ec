// The GetModelInfo call. Pure, thread-safe.
#pragma once

#include "frontend/model_runtime.h"
#include "penstock/v1/inference.pb.h"

namespace penstock {

// context_length is what a request may use: the model's, or less if the KV memory holds less.
v1::GetModelInfoResponse ModelInfo(const ModelRuntime& runtime);

}  // namespace penstock
