// Random sequences over a paged KV cache for the attention tests, and float64 attention over them.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/kernels/attention_args.h"
#include "core/kernels/concat_kv.h"
#include "tests/support/tensors.h"

namespace penstock::testing {

// Sequence r has lens[r] positions, the last feeds[r] of which are fed in this step. Its blocks
// are scattered over the cache; what no sequence wrote is NaN. All tensors are f32, with values
// that `type` can hold.
class PagedBatch {
 public:
  PagedBatch(const HeadLayout& heads, std::vector<int32_t> lens, std::vector<int32_t> feeds,
             uint32_t seed, DataType type = DataType::kF32)
      : heads_(heads), lens_(std::move(lens)), starts_(1, 0) {
    const auto rows = static_cast<int64_t>(lens_.size());
    const int64_t longest = *std::max_element(lens_.begin(), lens_.end());
    max_blocks_ = BlocksFor(longest) + 1;
    const int64_t num_blocks = rows * max_blocks_ + 3;
    std::vector<int32_t> blocks(static_cast<size_t>(num_blocks));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(seed));
    tables_.assign(blocks.begin(), blocks.begin() + rows * max_blocks_);
    kv_ = Poisoned({num_blocks, 2, heads.num_kv_heads, kBlockSize, heads.head_dim});
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t len = lens_[static_cast<size_t>(r)];
      const Tensor history = Random({len, heads.width()}, seed + 1 + static_cast<uint32_t>(r));
      histories_.push_back(As(DataType::kF32, As(type, history)));
      starts_.push_back(starts_.back() + feeds[static_cast<size_t>(r)]);
      std::vector<int64_t> slots;
      for (int64_t p = 0; p < len; ++p) slots.push_back(Slot(r, p));
      cpu::ConcatKv(Pool(), histories_.back(), FromVector(slots), heads_, kv_);
    }
    qkv_ = Poisoned({starts_.back(), heads.width()});
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t feed = feeds[static_cast<size_t>(r)];
      const std::vector<float> fed = ToVector(
          histories_[static_cast<size_t>(r)].Slice(lens_[static_cast<size_t>(r)] - feed, feed));
      std::copy(fed.begin(), fed.end(),
                static_cast<float*>(qkv_.raw()) + starts_[static_cast<size_t>(r)] * heads.width());
    }
    out_ = Poisoned({starts_.back(), heads.q_size()});
    starts_tensor_ = FromVector(starts_);
    lens_tensor_ = FromVector(lens_);
    tables_tensor_ = FromVector(tables_).Reshape({rows, max_blocks_});
  }

  AttentionArgs args(int64_t window = kNoWindow) const {
    return {qkv_, starts_tensor_, lens_tensor_, tables_tensor_, heads_, kv_, out_, window};
  }
  const Tensor& out() const { return out_; }
  const Tensor& kv() const { return kv_; }
  int64_t Slot(int64_t row, int64_t position) const {
    return tables_[static_cast<size_t>(row * max_blocks_ + position / kBlockSize)] * kBlockSize +
           position % kBlockSize;
  }
  void PoisonOut() {
    std::fill_n(static_cast<float*>(out_.raw()), out_.num_elements(), std::nanf(""));
  }
  // Forgets a position's key and value, which a decode step has to write.
  void PoisonPosition(int64_t row, int64_t position) {
    std::vector<int64_t> slot = {Slot(row, position)};
    cpu::ConcatKv(Pool(), Poisoned({1, heads_.width()}), FromVector(slot), heads_, kv_);
  }

  std::vector<double> Float64(int64_t window = kNoWindow) const {
    std::vector<double> out;
    for (size_t r = 0; r < lens_.size(); ++r) {
      const int64_t feed = starts_[r + 1] - starts_[r];
      for (int64_t p = lens_[r] - feed; p < lens_[r]; ++p) {
        for (int64_t head = 0; head < heads_.num_heads; ++head) AppendHead(r, p, head, window, out);
      }
    }
    return out;
  }

 private:
  void AppendHead(size_t row, int64_t position, int64_t head, int64_t window,
                  std::vector<double>& out) const {
    const int64_t first = window == kNoWindow ? 0 : std::max<int64_t>(position + 1 - window, 0);
    const auto* rows = static_cast<const float*>(histories_[row].raw());
    const int64_t head_dim = heads_.head_dim;
    const int64_t kv_head = head / (heads_.num_heads / heads_.num_kv_heads);
    const float* q = rows + position * heads_.width() + head * head_dim;
    std::vector<double> weights;
    for (int64_t p = first; p <= position; ++p) {
      const float* k = rows + p * heads_.width() + heads_.q_size() + kv_head * head_dim;
      double dot = 0;
      for (int64_t i = 0; i < head_dim; ++i) dot += static_cast<double>(q[i]) * k[i];
      weights.push_back(dot / std::sqrt(static_cast<double>(head_dim)));
    }
    const double top = *std::max_element(weights.begin(), weights.end());
    double total = 0;
    for (double& weight : weights) total += weight = std::exp(weight - top);
    std::vector<double> sums(static_cast<size_t>(head_dim));
    double* const sum = sums.data();  // under a sanitizer operator[] is a call
    for (int64_t p = first; p <= position; ++p) {
      const float* v =
          rows + p * heads_.width() + heads_.q_size() + heads_.kv_size() + kv_head * head_dim;
      const double weight = weights[static_cast<size_t>(p - first)] / total;
      for (int64_t i = 0; i < head_dim; ++i) sum[i] += weight * v[i];
    }
    out.insert(out.end(), sums.begin(), sums.end());
  }

  HeadLayout heads_;
  std::vector<int32_t> lens_;
  std::vector<int32_t> starts_;
  std::vector<int32_t> tables_;
  int64_t max_blocks_ = 0;
  std::vector<Tensor> histories_;  // of each row: [len, width]
  Tensor qkv_, kv_, out_, starts_tensor_, lens_tensor_, tables_tensor_;
};

}  // namespace penstock::testing
