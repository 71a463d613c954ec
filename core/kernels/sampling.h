// sampling: one token from each row of logits, its log-probability, and the likeliest tokens.
//
// The logits of a row are first changed, in this order, in float32; what would leave its range
// becomes the largest finite float of its sign:
//   1. logit_bias: added to its tokens' logits;
//   2. repetition_penalty r, once for each token of the history, prompt or answer (Keskar et al.,
//      2019, arXiv:1909.05858): a negative logit is multiplied by r, any other divided;
//   3. frequency_penalty f and presence_penalty p, for each token that the answer holds `count`
//      times: logit - f * count, then - p;
//   4. masks, logit = -infinity: the stop ids while the answer has fewer than min_tokens tokens; of
//      each bad word whose other tokens are the end of the history, the last token.
// Then the token is chosen:
//   temperature 0: the largest logit, the lowest id among equals. Otherwise
//   5. scores = (logit - largest logit) / temperature, in float64;
//   6. top_k: exactly the k best are kept, the lower id first among equals (0: all);
//   7. top_p: of these, best first, each is kept while those before it have less than top_p of the
//      mass, sum exp(score): so at least one, and the one that reaches top_p is in (1: all); sums
//      are exact to float32's rounding;
//   8. min_p: of these, each whose logit is at least largest + temperature * log(min_p), in
//   float64,
//      is kept (0: all);
//   9. of what is left, the one with the largest  score + g(id)  is taken, g being independent
//      standard Gumbel variates: an exact draw from the softmax of what is left (the Gumbel-max
//      trick; Maddison, Tarlow and Minka, 2014, arXiv:1411.0030), with no running sum whose order
//      could matter. A masked token is never taken.
//   g(id) = Gumbel(Philox(counter = {id, position low, position high, choice}, key = seed)[0]).
// A row with a target is not sampled: its token is the target.
//
// logprob = logits[token] - log(sum_i exp(logits[i])), and the `top` likeliest tokens, largest
// logit first, the lower id first among equals: all of the logits as they came in, before any step.
//
// A row whose logits hold a NaN or an infinity, or whose tokens are all masked, fails: its token is
// kNoToken, its log-probability 0, its top is not written. A row depends on nothing but itself.
//
// logits [num_rows, vocab] f32, unchanged; rows[r] says how row r is sampled.
// Bytes: 4 * num_rows * vocab, about three times over.
#pragma once

#include <span>

#include "core/base/sampling_params.h"
#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock {

// A token of a sequence, and how often the answer holds it; 0: only the prompt does.
struct TokenCount {
  int32_t token = 0;
  int32_t in_answer = 0;
};

// What the spans name is in the memory of the backend that samples.
struct SamplingRow {
  const SamplingParams* params = nullptr;
  int64_t position = 0;       // of the token that is sampled, in its sequence
  int64_t prompt_tokens = 0;  // for min_tokens
  // All `position` tokens before it, and each of these once, in any order, with its count. Both
  // may be empty unless params->needs_history().
  std::span<const int32_t> history;
  std::span<const TokenCount> counts;
  int32_t top = 0;            // how many of the likeliest tokens are told
  int32_t target = kNoToken;  // a token of the vocabulary, or kNoToken: one is sampled
};

struct SamplingOutput {
  Tensor tokens;    // [num_rows] i32
  Tensor logprobs;  // [num_rows] f32
  // Row r holds min(rows[r].top, vocab). Empty if no row asks.
  Tensor top_tokens;    // [num_rows, at least that] i32
  Tensor top_logprobs;  // of the same shape, f32
};

namespace cpu {

void Sampling(ThreadPool& pool, const Tensor& logits, std::span<const SamplingRow> rows,
              const SamplingOutput& out);

// The largest of a row, and whether all of it is finite; the largest is of no meaning otherwise.
struct RowScan {
  float largest = 0;
  bool finite = false;
};
RowScan ScanRow(std::span<const float> row);

// log(sum_i exp(row[i])), `top` being the largest; the plain loop and the vector one.
double LogSumExpReference(std::span<const float> row, float top);
double LogSumExp(std::span<const float> row, float top);

// sum_i exp((row[i] - top) / temperature); -infinity counts as nothing.
double SumExp(std::span<const float> row, float top, float temperature);

}  // namespace cpu
}  // namespace penstock
