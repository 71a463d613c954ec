#include "cuda/sampling_buffer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/check.h"
#include "cuda/cuda_check.h"

namespace penstock::cuda {
namespace {

constexpr int64_t kMaxTasks = 512;  // at once; more rows are several launches
constexpr int64_t kTaskBytes = kMaxTasks * static_cast<int64_t>(sizeof(SamplingTask));
constexpr int64_t kMinEdits = 65536;

bool IsBegun(const std::vector<int32_t>& word, std::span<const int32_t> history) {
  const size_t prefix = word.size() - 1;
  return prefix <= history.size() &&
         std::equal(word.begin(), word.end() - 1, history.end() - static_cast<int64_t>(prefix));
}

bool Penalizes(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

}  // namespace

// A row's biases, counts and masks are each at most the vocabulary.
SamplingBuffer::SamplingBuffer(int64_t vocab_size)
    : vocab_size_(vocab_size), max_edits_(std::max(3 * vocab_size, kMinEdits)) {
  is_masked_.resize(static_cast<size_t>(vocab_size));
}

absl::StatusOr<std::unique_ptr<SamplingBuffer>> SamplingBuffer::Make(int64_t vocab_size,
                                                                     BaseAllocator& memory) {
  std::unique_ptr<SamplingBuffer> buffer(new SamplingBuffer(vocab_size));
  const int64_t edit_bytes = buffer->max_edits_ * static_cast<int64_t>(sizeof(LogitEdit));
  PENSTOCK_ASSIGN_OR_RETURN(buffer->edits_, Tensor::Make(DataType::kU8, {edit_bytes}, memory));
  PENSTOCK_ASSIGN_OR_RETURN(buffer->saved_,
                            Tensor::Make(DataType::kF32, {buffer->max_edits_}, memory));
  for (Half& half : buffer->halves_) {
    void* host = nullptr;
    CUDA_CHECK(cudaMallocHost(&host, static_cast<size_t>(kTaskBytes + edit_bytes)));
    half.host = static_cast<uint8_t*>(host);
  }
  return buffer;
}

SamplingBuffer::~SamplingBuffer() {
  for (Half& half : halves_) CUDA_CHECK(cudaFreeHost(half.host));
}

SamplingBuffer::Staged SamplingBuffer::Put(cudaStream_t stream, std::span<const SamplingRow> rows) {
  PENSTOCK_CHECK(!rows.empty());
  Half& half = halves_[next_];
  half.read.Synchronize();
  const int64_t most = std::min<int64_t>(static_cast<int64_t>(rows.size()), kMaxTasks);
  auto* tasks = reinterpret_cast<SamplingTask*>(half.host);
  auto* edits = reinterpret_cast<LogitEdit*>(half.host + kTaskBytes);
  num_edits_ = 0;
  int64_t count = 0;
  for (; count < most; ++count) {
    const SamplingRow& row = rows[static_cast<size_t>(count)];
    const SamplingParams& params = *row.params;
    SamplingTask task = {};
    task.log_min_p = params.min_p > 0 ? std::log(static_cast<double>(params.min_p))
                                      : -std::numeric_limits<double>::infinity();
    task.seed = params.seed;
    task.position = row.position;
    task.temperature = params.temperature;
    task.top_p = params.top_p;
    task.repetition_penalty = params.repetition_penalty;
    task.frequency_penalty = params.frequency_penalty;
    task.presence_penalty = params.presence_penalty;
    task.top_k = params.top_k;
    task.choice = params.choice;
    task.top = row.top;
    task.target = row.target;
    if (!AppendEdits(row, edits, max_edits_, &task)) break;
    tasks[count] = task;
  }
  PENSTOCK_CHECK_GT(count, 0);
  if (num_edits_ > 0) {
    CUDA_CHECK(cudaMemcpyAsync(edits_.raw(), edits,
                               static_cast<size_t>(num_edits_) * sizeof(LogitEdit),
                               cudaMemcpyHostToDevice, stream));
  }
  return {count, tasks, static_cast<const LogitEdit*>(edits_.raw()),
          static_cast<float*>(saved_.raw())};
}

void SamplingBuffer::Release(cudaStream_t stream) {
  CUDA_CHECK(cudaEventRecord(halves_[next_].read.get(), stream));
  next_ = 1 - next_;
}

bool SamplingBuffer::AppendEdits(const SamplingRow& row, LogitEdit* edits, int64_t room,
                                 SamplingTask* task) {
  task->first_edit = static_cast<int32_t>(num_edits_);
  if (row.target != kNoToken) return true;
  const SamplingParams& params = *row.params;
  if (params.needs_history()) {
    PENSTOCK_CHECK_EQ(static_cast<int64_t>(row.history.size()), row.position);
  }
  int64_t end = num_edits_;
  bool fits = true;
  const auto append = [&](int32_t token, float amount) {
    PENSTOCK_CHECK(token >= 0 && token < vocab_size_);
    fits = fits && end < room;
    if (fits) edits[end++] = {token, amount};
  };
  for (const LogitBias& bias : params.logit_bias) append(bias.token, bias.bias);
  task->num_biases = static_cast<int32_t>(end - num_edits_);
  const int64_t counts = end;
  if (Penalizes(params)) {
    for (const TokenCount& count : row.counts) {
      append(count.token, static_cast<float>(count.in_answer));
    }
  }
  task->num_counts = static_cast<int32_t>(end - counts);
  const int64_t masks = end;
  const auto mask = [&](int32_t token) {
    PENSTOCK_CHECK(token >= 0 && token < vocab_size_);
    if (is_masked_[static_cast<size_t>(token)]) return;
    is_masked_[static_cast<size_t>(token)] = fits && end < room;
    append(token, 0);
  };
  if (row.position - row.prompt_tokens < params.min_tokens) {
    for (const int32_t id : params.stop_ids) mask(id);
  }
  for (const std::vector<int32_t>& word : params.bad_words) {
    if (IsBegun(word, row.history)) mask(word.back());
  }
  for (int64_t i = masks; i < end; ++i) is_masked_[static_cast<size_t>(edits[i].token)] = false;
  task->num_masks = static_cast<int32_t>(end - masks);
  if (fits) num_edits_ = end;
  return fits;
}

}  // namespace penstock::cuda
