// sampling: one token from each row of logits, and its log-probability.
//
//   temperature 0: the largest logit, the lowest id among equals.
//   otherwise: logits are divided by the temperature; the top_k largest are kept (0: all); of
//   these, the largest whose probabilities together first reach top_p (at least one); among what
//   is left, the token with the largest  logit / temperature + g(id)  is taken, g being
//   independent standard Gumbel variates: an exact draw from the softmax of what is left (the
//   Gumbel-max trick; Maddison, Tarlow and Minka, 2014, arXiv:1411.0030), with no running sum
//   whose order could matter.
//   g(id) = Gumbel(Philox(counter = {id, position low, position high, choice}, key = seed)[0]).
//   logprob = logits[token] - log(sum_i exp(logits[i])): before temperature and truncation.
//
// logits [num_rows, vocab] f32; rows[r] says how row r is sampled; tokens [num_rows] i32;
// logprobs [num_rows] f32. A row depends on nothing but itself.
#pragma once

#include <span>

#include "core/base/sampling_params.h"
#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock {

struct SamplingRow {
  SamplingParams params;
  int64_t position = 0;  // of the token that is sampled, in its sequence
};

namespace cpu {

void Sampling(ThreadPool& pool, const Tensor& logits, std::span<const SamplingRow> rows,
              const Tensor& tokens, const Tensor& logprobs);

// log(sum_i exp(row[i])), `top` being the largest; the plain loop and the vector one.
double LogSumExpReference(std::span<const float> row, float top);
double LogSumExp(std::span<const float> row, float top);

}  // namespace cpu
}  // namespace penstock
