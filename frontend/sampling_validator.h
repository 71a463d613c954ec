// The check of how a request's tokens are to be chosen. Pure functions, thread-safe.
#pragma once

#include <cstdint>

#include "core/base/sampling_params.h"
#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"
#include "frontend/client_request.h"

namespace penstock {

// Below this a temperature counts as 0: the distribution is one token's.
inline constexpr float kGreedyTemperature = 1e-5f;
inline constexpr float kMaxTemperature = 100.0f;
inline constexpr float kMinRepetitionPenalty = 0.01f;
inline constexpr float kMaxRepetitionPenalty = 100.0f;
inline constexpr float kMaxPenalty = 2.0f;      // presence and frequency, either way
inline constexpr float kMaxLogitBias = 100.0f;  // either way

// The parameters of choice 0, every default filled in. stop_ids are the client's and, unless it
// ignores them, the model's. A bad word is put in as the tokens of the text and as those of the
// text behind a space, since a word within an answer has other tokens than the same word at its
// beginning; spaces in front of it do not count.
// Errors: INVALID_ARGUMENT that names the field, the value and what it may be.
absl::StatusOr<SamplingParams> ValidateSampling(const ClientSampling& sampling,
                                                const RequestLimits& limits,
                                                const Tokenizer& tokenizer, uint64_t fresh_seed);

// INVALID_ARGUMENT for stop texts that are empty, broken, too long or too many.
absl::Status CheckStopTexts(const ClientSampling& sampling, const RequestLimits& limits);

}  // namespace penstock
