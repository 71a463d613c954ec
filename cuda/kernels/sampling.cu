#include <cfloat>

#include "core/kernels/sampling.h"
#include "cuda/best_tokens.cuh"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"
#include "cuda/sampling_buffer.h"

namespace penstock::cuda {
namespace {

// What f32 totals of the race may be wrong by, and far more.
constexpr float kTotalMargin = 1e-2f;
constexpr float kGumbelMost = 16.66f;

__device__ __forceinline__ float Finite(float logit) {
  return fminf(fmaxf(logit, -FLT_MAX), FLT_MAX);
}

// Word 0 of Philox4x32-10, as core/base/philox.h has it.
__device__ __forceinline__ uint32_t PhiloxWord(uint32_t id, const SamplingTask& task) {
  uint32_t c0 = id;
  auto c1 = static_cast<uint32_t>(task.position);
  auto c2 = static_cast<uint32_t>(static_cast<uint64_t>(task.position) >> 32);
  auto c3 = static_cast<uint32_t>(task.choice);
  auto key_low = static_cast<uint32_t>(task.seed);
  auto key_high = static_cast<uint32_t>(task.seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t a_high = __umulhi(0xD2511F53u, c0);
    const uint32_t a_low = 0xD2511F53u * c0;
    const uint32_t b_high = __umulhi(0xCD9E8D57u, c2);
    const uint32_t b_low = 0xCD9E8D57u * c2;
    c0 = b_high ^ c1 ^ key_low;
    c1 = b_low;
    c2 = a_high ^ c3 ^ key_high;
    c3 = a_low;
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return c0;
}

// A thread's part of step 9. The largest total is found in f64; f32 says who need not be asked.
struct Race {
  const Scores& scores;
  const SamplingTask& task;
  float lowest;  // what min_p keeps
  double best = -INFINITY;
  int32_t token = INT32_MAX;
  float best_rough = -INFINITY;

  __device__ void Enter(int32_t id, float logit) {
    if (logit < lowest) return;
    const float score = (logit - scores.top) / scores.temperature;
    if (score + kGumbelMost + kTotalMargin < best_rough) return;
    const uint32_t part = PhiloxWord(static_cast<uint32_t>(id), task) >> 9;
    const float u = (static_cast<float>(part) + 0.5f) * 0x1p-23f;
    const float rough = score - logf(-logf(u));
    if (rough < best_rough - kTotalMargin) return;
    best_rough = fmaxf(best_rough, rough);
    const double exact = (static_cast<double>(part) + 0.5) * 0x1p-23;
    const double total = scores.Score(logit) - log(-log(exact));
    if (total > best || (total == best && id < token)) {
      best = total;
      token = id;
    }
  }

  // Of all threads of the team, which may be one block that has them all.
  template <typename Team>
  __device__ int32_t Winner(Team& team) const {
    const double most = team.template Combine<double>(
        best, -INFINITY, [](double a, double b) { return a > b ? a : b; });
    const uint64_t mine = best == most ? static_cast<uint64_t>(token) : UINT64_MAX;
    return static_cast<int32_t>(team.template Combine<uint64_t>(
        mine, UINT64_MAX, [](uint64_t a, uint64_t b) { return a < b ? a : b; }));
  }
};

// The lowest logit that min_p keeps.
__device__ float MinPBar(const Scores& scores, double log_min_p) {
  const double lowest =
      static_cast<double>(scores.top) + static_cast<double>(scores.temperature) * log_min_p;
  if (!(lowest > static_cast<double>(-FLT_MAX))) return -FLT_MAX;
  const auto bar = static_cast<float>(lowest);
  return static_cast<double>(bar) < lowest ? nextafterf(bar, scores.top) : bar;
}

// Steps 5 to 9.
template <typename Team>
__device__ int32_t Draw(Team& team, const Scores& scores, const SamplingTask& task,
                        BestTokensShared& shared) {
  Race race = {scores, task, MinPBar(scores, task.log_min_p)};
  const bool cuts_count = task.top_k > 0 && task.top_k < scores.vocab;
  const bool cuts_mass = task.top_p < 1.0f;
  int listed = 0;
  if (cuts_count && task.top_k <= kListTokens) {
    listed = ListOfCount(team, scores, task.top_k, shared);
    if (cuts_mass) listed = NucleusSize(scores, listed, -1, task.top_p, shared);
  } else if (!cuts_count && cuts_mass) {
    listed = ListOfMost(team, scores, shared);
    // The mass of a list that is all tokens is summed up as its parts are.
    const double mass = scores.vocab <= kListTokens ? -1 : SumExpOfRow(team, scores);
    if (listed > 0) listed = NucleusSize(scores, listed, mass, task.top_p, shared);
  }
  if (listed > 0) {
    for (int i = static_cast<int>(threadIdx.x); i < listed; i += kSamplingThreads) {
      const uint64_t key = shared.keys[i];
      race.Enter(IndexOf(key), Unordered(static_cast<uint32_t>(key >> 32)));
    }
    RowTeam<1> alone;  // every block has the whole list
    return race.Winner(alone);
  }
  uint64_t bar = LowestKey();
  if (cuts_count) bar = BarOfCount(team, scores, static_cast<uint64_t>(task.top_k), shared);
  if (cuts_mass) bar = BarOfMass(team, scores, bar, task.top_p, shared);
  team.ForEach(scores.logits, scores.vocab, [&](int64_t i, float logit, int) {
    const auto id = static_cast<int32_t>(i);
    if (Key(Ordered(logit), id) >= bar) race.Enter(id, logit);
  });
  return race.Winner(team);
}

// Steps 1 to 4, in the row itself, by one block. What was there is kept, and Restore() puts it
// back.
struct LogitChange {
  float* row;
  int64_t vocab;
  const SamplingTask& task;
  const LogitEdit* edits;  // the row's
  float* saved;            // [edits]

  // body(edit, logit) gives the new one.
  template <typename Body>
  __device__ void Change(int first, int count, const Body& body) const {
    for (int i = first + static_cast<int>(threadIdx.x); i < first + count; i += kSamplingThreads) {
      const LogitEdit edit = edits[i];
      DeviceCheck(edit.token >= 0 && edit.token < vocab);
      const float logit = row[edit.token];
      saved[i] = logit;
      row[edit.token] = body(edit, logit);
    }
    __syncthreads();
  }
  __device__ void Run() const {
    Change(0, task.num_biases,
           [](const LogitEdit& edit, float logit) { return Finite(logit + edit.amount); });
    Change(task.num_biases, task.num_counts, [this](const LogitEdit& edit, float logit) {
      const float repetition = task.repetition_penalty;
      if (repetition != 1.0f) {
        logit = Finite(logit < 0.0f ? logit * repetition : logit / repetition);
      }
      if (edit.amount > 0.0f) {
        logit = Finite(logit - Finite(__fmul_rn(task.frequency_penalty, edit.amount)));
        logit = Finite(logit - task.presence_penalty);
      }
      return logit;
    });
    Change(task.num_biases + task.num_counts, task.num_masks,
           [](const LogitEdit&, float) { return -INFINITY; });
  }
  __device__ void Restore(int first, int count) const {
    for (int i = first + static_cast<int>(threadIdx.x); i < first + count; i += kSamplingThreads) {
      row[edits[i].token] = saved[i];
    }
    __syncthreads();
  }
  __device__ void Restore() const {
    __syncthreads();
    Restore(task.num_biases + task.num_counts, task.num_masks);
    Restore(task.num_biases, task.num_counts);
    Restore(0, task.num_biases);
  }
};

// Sums of exp(logit - top), a thread and part, while the top is not known: each is relative to the
// largest logit that it has met (Milakov and Gimelshein, 2018, arXiv:1805.02867). Its bits depend
// on its own logits alone.
template <typename Team>
struct RowSums {
  float top[Team::kOwnParts];
  float sums[Team::kOwnParts] = {};

  __device__ RowSums() {
#pragma unroll
    for (float& each : top) each = -INFINITY;
  }
  __device__ __forceinline__ void Add(float logit, int part) {
#pragma unroll
    for (int own = 0; own < Team::kOwnParts; ++own) {
      if (own != part) continue;  // `part` is a constant of the loop
      if (logit > top[own]) {
        sums[own] *= expf(top[own] - logit);
        top[own] = logit;
      }
      sums[own] += expf(logit - top[own]);
    }
  }
  __device__ double Total(Team& team, float of_row) {
#pragma unroll
    for (int own = 0; own < Team::kOwnParts; ++own) sums[own] *= expf(top[own] - of_row);
    return team.AddParts(sums);
  }
};
struct NoSums {
  __device__ void Add(float, int) const {}
};

// The key of the best token of a row; `finite`: whether all of it is.
template <typename Team, typename Sums>
__device__ uint64_t ScanRow(Team& team, const float* row, int64_t vocab, bool* finite,
                            Sums&& sums) {
  float most = -INFINITY;
  int32_t at = INT32_MAX;  // rising, so the first of equals
  bool sound = true;
  team.ForEach(row, vocab, [&](int64_t i, float logit, int part) {
    if (logit > most) {
      most = logit;
      at = static_cast<int32_t>(i);
    }
    sound = sound && isfinite(logit);
    sums.Add(logit, part);
  });
  const uint64_t best = Key(Ordered(most), at);
  int all_sound = __syncthreads_and(sound ? 1 : 0);
  if constexpr (Team::kBlocks > 1) {
    all_sound = team.template OverBlocks<int>(all_sound, [](int a, int b) { return a & b; });
  }
  *finite = all_sound != 0;
  return team.template Combine<uint64_t>(best, 0,
                                         [](uint64_t a, uint64_t b) { return a > b ? a : b; });
}

struct SamplingRows {
  float* logits;
  int64_t stride;
  int64_t vocab;
  const SamplingTask* tasks;
  const LogitEdit* edits;
  float* saved;
  int32_t* tokens;
  float* logprobs;
  int32_t* top_tokens;  // or nullptr
  float* top_logprobs;
  int64_t columns;  // of these two
};

// The token of a row whose logits are sound; kNoToken if all are masked.
template <typename Team>
__device__ int32_t SampleRow(Team& team, float* row, uint64_t best, const SamplingRows& rows,
                             const SamplingTask& task, BestTokensShared& shared) {
  const LogitChange change = {row, rows.vocab, task, rows.edits + task.first_edit,
                              rows.saved + task.first_edit};
  const bool changes = task.num_biases + task.num_counts + task.num_masks > 0;
  if (changes) {
    bool finite;
    if (team.rank() == 0) change.Run();
    team.Sync();
    best = ScanRow(team, row, rows.vocab, &finite, NoSums());
  }
  const float top = Unordered(static_cast<uint32_t>(best >> 32));
  int32_t token = kNoToken;
  if (top >= -FLT_MAX) {
    token = task.temperature > 0.0f
                ? Draw(team, {row, rows.vocab, top, task.temperature}, task, shared)
                : IndexOf(best);
  }
  if (changes) {
    team.Sync();
    if (team.rank() == 0) change.Restore();
    team.Sync();
  }
  return token;
}

// A team of blocks a row, which it reads from level 2, where the LM head has just left it: once
// for a greedy token, once or twice more for a draw, and again for the likeliest tokens.
template <int kBlocks>
__global__ void __cluster_dims__(kBlocks) __launch_bounds__(kSamplingThreads)
    SamplingKernel(const __grid_constant__ SamplingRows rows) {
  __shared__ BestTokensShared shared;
  __shared__ SamplingTask of_row;
  LetNextBegin();
  WaitForInputs();
  RowTeam<kBlocks> team;
  const int64_t r = blockIdx.x / kBlocks;
  const bool tells = team.rank() == 0;
  float* row = rows.logits + r * rows.stride;
  // The task is in the host's memory: asked for once, and here when the row has been read.
  constexpr int kWords = sizeof(SamplingTask) / sizeof(uint32_t);
  static_assert(kWords <= kSamplingThreads);
  uint32_t word = 0;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kWords) word = reinterpret_cast<const uint32_t*>(rows.tasks + r)[thread];
  bool finite;
  RowSums<RowTeam<kBlocks>> sums;
  const uint64_t best = ScanRow(team, row, rows.vocab, &finite, sums);
  if (thread < kWords) reinterpret_cast<uint32_t*>(&of_row)[thread] = word;
  __syncthreads();
  const SamplingTask task = of_row;
  const float top = Unordered(static_cast<uint32_t>(best >> 32));
  int32_t token = kNoToken;
  double log_sum = 0;
  if (finite) {
    log_sum = static_cast<double>(top) + log(sums.Total(team, top));
    token = task.target;
    if (token == kNoToken) token = SampleRow(team, row, best, rows, task, shared);
    DeviceCheck(token == kNoToken || (token >= 0 && token < rows.vocab));
  }
  if (token == kNoToken) {
    if (tells && threadIdx.x == 0) {
      rows.tokens[r] = kNoToken;
      rows.logprobs[r] = 0;
    }
    return team.Sync();  // what others may still read goes with a block
  }
  const Scores model = {row, rows.vocab, top, 1.0f};
  if (tells && threadIdx.x == 0) {
    rows.tokens[r] = token;
    rows.logprobs[r] = static_cast<float>(static_cast<double>(row[token]) - log_sum);
  }
  const int64_t count = min(static_cast<int64_t>(task.top), rows.vocab);
  if (count <= 0) return team.Sync();
  const int listed = ListOfCount(team, model, static_cast<int>(count), shared);
  for (int i = static_cast<int>(threadIdx.x); tells && i < listed; i += kSamplingThreads) {
    const int32_t id = IndexOf(shared.keys[i]);
    rows.top_tokens[r * rows.columns + i] = id;
    rows.top_logprobs[r * rows.columns + i] =
        static_cast<float>(static_cast<double>(row[id]) - log_sum);
  }
  team.Sync();
}

// Blocks a row: as many as keep each multiprocessor's two places busy.
void LaunchRows(cudaStream_t stream, int64_t count, const SamplingRows& rows) {
  const auto launch = [&](auto blocks) {
    constexpr int kBlocks = decltype(blocks)::value;
    Launch(stream, {dim3(Blocks(count * kBlocks)), dim3(kSamplingThreads)}, SamplingKernel<kBlocks>,
           rows);
  };
  const int places = 2 * NumMultiprocessors();
  if (count * 8 <= places) return launch(std::integral_constant<int, 8>());
  if (count * 2 <= places) return launch(std::integral_constant<int, 2>());
  launch(std::integral_constant<int, 1>());
}

}  // namespace

void LaunchSampling(SamplingBuffer& buffer, cudaStream_t stream, const Tensor& logits,
                    std::span<const SamplingRow> rows, const SamplingOutput& out) {
  const int64_t vocab = logits.dim(1);
  const auto count = static_cast<int64_t>(rows.size());
  PENSTOCK_CHECK_EQ(logits.dim(0), count);
  PENSTOCK_CHECK_GE(out.tokens.dim(0), count);
  PENSTOCK_CHECK_GE(out.logprobs.dim(0), count);
  PENSTOCK_CHECK_LE(vocab, INT32_MAX);
  SamplingRows at = {};
  at.vocab = vocab;
  at.stride = logits.stride(0);
  if (!out.top_tokens.empty()) {
    PENSTOCK_CHECK(out.top_tokens.shape() == out.top_logprobs.shape());
    PENSTOCK_CHECK(out.top_tokens.is_contiguous() && out.top_logprobs.is_contiguous());
    PENSTOCK_CHECK_GE(out.top_tokens.dim(0), count);
    at.columns = out.top_tokens.dim(1);
  }
  for (const SamplingRow& row : rows) {
    const int64_t top = std::min<int64_t>(row.top, vocab);
    PENSTOCK_CHECK_LE(top, at.columns);
    PENSTOCK_CHECK_LE(top, kListTokens);
  }
  for (int64_t first = 0; first < count;) {
    const SamplingBuffer::Staged staged =
        buffer.Put(stream, rows.subspan(static_cast<size_t>(first)));
    const int64_t part = staged.num_rows;
    at.logits = Elements<float>(logits) + first * at.stride;
    at.tasks = staged.tasks;
    at.edits = staged.edits;
    at.saved = staged.saved;
    at.tokens = Elements<int32_t>(out.tokens) + first;
    at.logprobs = Elements<float>(out.logprobs) + first;
    if (at.columns > 0) {
      at.top_tokens = Elements<int32_t>(out.top_tokens) + first * at.columns;
      at.top_logprobs = Elements<float>(out.top_logprobs) + first * at.columns;
    }
    LaunchRows(stream, part, at);
    buffer.Release(stream);
    first += part;
  }
}

}  // namespace penstock::cuda
