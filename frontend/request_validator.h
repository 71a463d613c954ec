// The one check of a client's request, whatever service it came by: what passes is a request that
// the engine may trust. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"
#include "frontend/engine_types.h"

namespace penstock {

// What a client asked for; absent fields take their defaults.
struct ClientRequest {
  std::string model;                              // empty: the one that is served
  std::optional<std::string> text;                // the prompt: either this
  std::optional<std::vector<int32_t>> token_ids;  // or that
  bool parse_special = false;                     // names of control tokens in `text` become them
  std::optional<int64_t> max_tokens;
  std::optional<float> temperature;  // 0: greedy; absent: 1
  std::optional<int32_t> top_k;      // 0 and absent: all
  std::optional<float> top_p;        // absent: 1
  std::optional<uint64_t> seed;
  std::optional<int32_t> logprobs;  // 0: of each generated token; absent: none
};

// What is served, and the settings that bound a request.
struct RequestLimits {
  std::string model;
  int64_t vocab_size = 0;
  int64_t context_length = 0;  // tokens, prompt and answer together
  int64_t default_max_tokens = 256;
};

// Below this a temperature counts as 0: the distribution is one token's.
inline constexpr float kGreedyTemperature = 1e-5f;
inline constexpr float kMaxTemperature = 100.0f;

// The request with its prompt as ids and every default filled in. max_tokens is cut to what the
// context leaves. `fresh_seed` is used if the client gave none. The deadline is left to the caller.
// Errors: INVALID_ARGUMENT (a bad field, an empty prompt, broken UTF-8), OUT_OF_RANGE (the prompt
// does not fit into the context), NOT_FOUND (another model), UNIMPLEMENTED (logprobs above 0).
absl::StatusOr<GenerationRequest> ValidateRequest(const ClientRequest& request,
                                                  const RequestLimits& limits,
                                                  const Tokenizer& tokenizer, uint64_t fresh_seed);

// INVALID_ARGUMENT if `text` is not UTF-8, naming `field`, the offset and the byte.
absl::Status CheckUtf8(std::string_view field, std::string_view text);

}  // namespace penstock
