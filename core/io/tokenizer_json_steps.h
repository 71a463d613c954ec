// The steps before and after the model in a tokenizer.json, recognised by their structure.
// Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/io/json.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

// Fills model, pre_tokenizer, normalize_nfc and space_prefix from "normalizer" and "pre_tokenizer".
// Errors: UNIMPLEMENTED for steps, or settings of steps, that are not supported.
absl::Status ReadTokenizerSteps(const JsonDocument& document, TokenizerSpec* spec);

// The token that "post_processor" puts before every text; empty if it puts none.
// Errors: UNIMPLEMENTED where it adds anything else.
absl::StatusOr<std::string> ReadFirstToken(const JsonDocument& document);

}  // namespace penstock
