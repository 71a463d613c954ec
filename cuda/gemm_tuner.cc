#include "cuda/gemm_tuner.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <vector>

#include "core/base/check.h"
#include "core/model/model_limits.h"
#include "cuda/blas.h"
#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "cuda/lt_linear.h"
#include "cuda/measuring.h"
#include "cuda/stream.h"

namespace penstock {
namespace {

constexpr int64_t kRotatedBytes = int64_t{256} << 20;  // of weights: several times level 2
constexpr int kCandidates = 32;
constexpr size_t kFinalists = 4;
constexpr int kFirstRuns = 3;
constexpr int kFinalRuns = 9;
constexpr int64_t kCheckedTokens = 64;
constexpr int kClimbs = 3;
constexpr double kWorthIt = 0.99;  // of the first choice's time; less is noise

// Places in GemmAlgorithm.
constexpr size_t kTile = 1;
constexpr size_t kSplitK = 2;
constexpr size_t kReduction = 3;
constexpr size_t kSwizzle = 4;
constexpr size_t kCustomOption = 5;
constexpr size_t kClusterShape = 8;

// Products of fewer bf16 tokens are skinny_linear's.
int64_t FirstTokens(DataType type) { return type == DataType::kBF16 ? 9 : 1; }

double Tolerance(DataType type) { return type == DataType::kF32 ? 1e-5 : 1e-2; }

// What a product is repeated with in one graph.
class Timer {
 public:
  Timer(const CudaStream& stream, const std::function<void()>& enqueue) : stream_(stream) {
    cudaGraph_t graph = nullptr;
    CUDA_CHECK(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
    enqueue();
    CUDA_CHECK(cudaStreamEndCapture(stream_.get(), &graph));
    CUDA_CHECK(cudaGraphInstantiate(&graph_, graph, 0));
    CUDA_CHECK(cudaGraphDestroy(graph));
    Run();
    times_.clear();
  }
  ~Timer() { CUDA_CHECK(cudaGraphExecDestroy(graph_)); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void Run() {
    stream_.Record(begin_);
    CUDA_CHECK(cudaGraphLaunch(graph_, stream_.get()));
    stream_.Record(end_);
    end_.Synchronize();
    times_.push_back(end_.MillisecondsSince(begin_) * 1e3);
  }
  // Of all runs, in microseconds; they are forgotten.
  double TakeMedian() {
    std::sort(times_.begin(), times_.end());
    const double median = times_[times_.size() / 2];
    times_.clear();
    return median;
  }

 private:
  const CudaStream& stream_;
  const CudaEvent begin_{CudaEvent::Timing::kOn};
  const CudaEvent end_{CudaEvent::Timing::kOn};
  cudaGraphExec_t graph_ = nullptr;
  std::vector<double> times_;
};

// As a model has it: some are added to the residual.
struct ModelProduct {
  GemmShape shape;
  bool adds = false;
};

struct Candidate {
  GemmAlgorithm algorithm;
  std::unique_ptr<Timer> timer;
  double microseconds = 0;
};

class Tuner {
 public:
  explicit Tuner(BaseAllocator& memory) : memory_(memory) {}

  // Makes weights for products of this shape, and tokens up to as many.
  absl::Status Prepare(const ModelProduct& product) {
    const GemmShape& shape = product.shape;
    adds_ = product.adds;
    tiles_.clear();
    weights_.clear();
    x_ = expected_ = out_ = Tensor();
    const int64_t bytes = shape.in_features * shape.out_features * Info(shape.type).block_bytes;
    const int64_t count = std::clamp<int64_t>((kRotatedBytes + bytes - 1) / bytes, 2, 64);
    const Shape of_weight({shape.out_features, shape.in_features});
    for (int64_t i = 0; i < count; ++i) {
      PENSTOCK_ASSIGN_OR_RETURN(Tensor weight, Tensor::Make(shape.type, of_weight, memory_));
      cuda::FillRandom(stream_.get(), weight, static_cast<uint32_t>(i + 1), 0.02F);
      weights_.push_back(std::move(weight));
    }
    PENSTOCK_ASSIGN_OR_RETURN(x_,
                              Tensor::Make(shape.type, {shape.tokens, shape.in_features}, memory_));
    cuda::FillRandom(stream_.get(), x_, 77);
    const Shape of_out({shape.tokens, shape.out_features});
    PENSTOCK_ASSIGN_OR_RETURN(expected_, Tensor::Make(shape.out_type, of_out, memory_));
    PENSTOCK_ASSIGN_OR_RETURN(out_, Tensor::Make(shape.out_type, of_out, memory_));
    return absl::OkStatus();
  }

  absl::StatusOr<TunedGemm> Tune(const GemmShape& shape) {
    const Tensor x = x_.Slice(0, shape.tokens);
    const Tensor expected = expected_.Slice(0, shape.tokens);
    const Tensor out = out_.Slice(0, shape.tokens);
    first_.Linear(stream_.get(), x, weights_[0], expected);
    const double error =
        cuda::ProductError(stream_.get(), x, weights_[0], expected, kCheckedTokens);
    const double tolerance = Tolerance(shape.type);
    if (!(error <= tolerance)) {
      return absl::DataLossError(absl::StrCat(
          "the product of ", shape.tokens, " x ", shape.in_features, " by ", shape.out_features,
          " has a relative error of ", error, ": is the GPU sound?"));
    }
    Clear(out);
    Candidate first;
    first.timer = MakeTimer(first_, x, out);
    std::vector<Candidate> candidates = Measure(x, expected, out, tolerance);
    first.microseconds = Race(candidates, *first.timer);
    TunedGemm tuned;
    tuned.heuristic_microseconds = first.microseconds / Calls(x);
    tuned.microseconds = tuned.heuristic_microseconds;
    tuned.algorithm = first_.Candidates(x, weights_[0], out, 1)[0];
    if (!candidates.empty() && candidates[0].microseconds < kWorthIt * first.microseconds) {
      tuned.algorithm = candidates[0].algorithm;
      tuned.microseconds = candidates[0].microseconds / Calls(x);
    }
    return tuned;
  }

 private:
  // All weights in turn; of long products a few, since what they read is little beside what they
  // compute.
  int64_t Calls(const Tensor& x) const {
    const auto count = static_cast<int64_t>(weights_.size());
    return x.dim(0) > 1024 ? std::min<int64_t>(2, count) : count;
  }
  std::unique_ptr<Timer> MakeTimer(cuda::Blas& blas, const Tensor& x, const Tensor& out) {
    return std::make_unique<Timer>(stream_, [&] {
      for (int64_t i = 0; i < Calls(x); ++i) {
        blas.Linear(stream_.get(), x, weights_[static_cast<size_t>(i)], out, adds_);
      }
    });
  }

  // What is added to does not become infinite: that would save power.
  void Clear(const Tensor& out) const {
    CUDA_CHECK(cudaMemsetAsync(const_cast<void*>(out.raw()), 0, static_cast<size_t>(out.bytes()),
                               stream_.get()));
  }

  // The fastest first, by a few runs: the library's proposals, and what a climb from the best of
  // them finds.
  std::vector<Candidate> Measure(const Tensor& x, const Tensor& expected, const Tensor& out,
                                 double tolerance) {
    std::set<GemmAlgorithm> tried;
    std::vector<Candidate> candidates;
    const auto measure = [&](const GemmAlgorithm& algorithm) {
      if (!tried.insert(algorithm).second) return;
      CUDA_CHECK(cudaMemsetAsync(const_cast<void*>(out.raw()), 0xff,
                                 static_cast<size_t>(out.bytes()), stream_.get()));
      if (!tried_.Try(stream_.get(), x, weights_[0], out, algorithm)) return;
      if (!(cuda::Difference(stream_.get(), out, expected) <= tolerance)) return;
      Clear(out);
      Candidate candidate = {algorithm, MakeTimer(tried_, x, out)};
      for (int run = 0; run < kFirstRuns; ++run) candidate.timer->Run();
      candidate.microseconds = candidate.timer->TakeMedian();
      candidates.push_back(std::move(candidate));
      Sort(candidates);
      if (candidates.size() > kFinalists) candidates.pop_back();
    };
    for (const GemmAlgorithm& algorithm : first_.Candidates(x, weights_[0], out, kCandidates)) {
      tiles_.insert(algorithm[kTile]);
      measure(algorithm);
    }
    for (int step = 0; step < kClimbs && !candidates.empty(); ++step) {
      const GemmAlgorithm from = candidates[0].algorithm;
      for (const GemmAlgorithm& algorithm : Neighbours(from)) measure(algorithm);
      if (candidates[0].algorithm == from) break;
    }
    return candidates;
  }

  // With one number changed. Most are refused, or slower.
  std::vector<GemmAlgorithm> Neighbours(const GemmAlgorithm& from) const {
    std::vector<GemmAlgorithm> neighbours;
    const auto add = [&](size_t place, int64_t value) {
      GemmAlgorithm changed = from;
      changed[place] = value;
      changed[kReduction] = changed[kSplitK] > 1 ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
                                                 : CUBLASLT_REDUCTION_SCHEME_NONE;
      neighbours.push_back(changed);
    };
    for (const int64_t tile : tiles_) add(kTile, tile);
    for (const int64_t parts : {1, 2, 3, 4, 6, 8}) add(kSplitK, parts);
    for (const int64_t swizzle : {0, 1}) add(kSwizzle, swizzle);
    for (int64_t option = 0; option < 8; ++option) add(kCustomOption, option);
    for (int64_t shape = CUBLASLT_CLUSTER_SHAPE_1x1x1; shape <= CUBLASLT_CLUSTER_SHAPE_4x4x1;
         ++shape) {
      add(kClusterShape, shape);
    }
    return neighbours;
  }

  // The best few and the library's first choice in turns; that one's time.
  static double Race(std::vector<Candidate>& candidates, Timer& first) {
    for (int run = 0; run < kFinalRuns; ++run) {
      first.Run();
      for (Candidate& candidate : candidates) candidate.timer->Run();
    }
    for (Candidate& candidate : candidates) candidate.microseconds = candidate.timer->TakeMedian();
    Sort(candidates);
    return first.TakeMedian();
  }
  static void Sort(std::vector<Candidate>& candidates) {
    std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
      return a.microseconds < b.microseconds;
    });
  }

  BaseAllocator& memory_;
  const CudaStream stream_;
  cuda::Blas first_;  // the heuristic's first choice
  cuda::Blas tried_;
  bool adds_ = false;
  std::set<int64_t> tiles_;  // that the library has proposed for this shape
  std::vector<Tensor> weights_;
  Tensor x_;
  Tensor expected_;
  Tensor out_;
};

// The products of a layer and the LM head, each with its largest number of tokens.
std::vector<ModelProduct> LargestProducts(const ModelConfig& config, const GemmTuning& tuning) {
  const DataType type = tuning.precision;
  const int64_t tokens = cuda::LtLinear::TokenBucket(tuning.max_step_tokens);
  const int64_t rows = cuda::LtLinear::TokenBucket(SampleRows(tuning.max_sequences));
  const int64_t hidden = config.hidden_size;
  return {{{type, type, hidden, config.qkv_size(), tokens}},
          {{type, DataType::kF32, config.q_size(), hidden, tokens}, true},
          {{type, type, hidden, 2 * config.intermediate_size, tokens}},
          {{type, DataType::kF32, config.intermediate_size, hidden, tokens}, true},
          {{type, DataType::kF32, hidden, config.vocab_size, rows}}};
}

std::vector<int64_t> Buckets(DataType type, int64_t most) {
  std::vector<int64_t> buckets;
  for (int64_t tokens = FirstTokens(type); tokens <= most; tokens = buckets.back() + 1) {
    buckets.push_back(cuda::LtLinear::TokenBucket(tokens));
  }
  return buckets;
}

}  // namespace

GemmTable cuda::GemmTableOfGpu(int ordinal) {
  GemmTable table;
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, ordinal));
  table.gpu = properties.name;
  table.library_version = static_cast<int64_t>(cublasLtGetVersion());
  return table;
}

absl::StatusOr<GemmTable> TuneGemms(const ModelConfig& config, const GemmTuning& tuning,
                                    const TuningProgress& progress) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::unique_ptr<PoolAllocator> memory,
                            MakeCudaAllocator(tuning.ordinal));
  CUDA_CHECK(cudaSetDevice(tuning.ordinal));
  GemmTable table = cuda::GemmTableOfGpu(tuning.ordinal);
  const std::vector<ModelProduct> largest = LargestProducts(config, tuning);
  int64_t total = 0;
  for (const auto& [shape, adds] : largest) {
    total += static_cast<int64_t>(Buckets(shape.type, shape.tokens).size());
  }
  Tuner tuner(*memory);
  int64_t done = 0;
  for (const ModelProduct& product : largest) {
    PENSTOCK_RETURN_IF_ERROR(tuner.Prepare(product));
    GemmShape shape = product.shape;
    for (const int64_t tokens : Buckets(shape.type, shape.tokens)) {
      shape.tokens = tokens;
      PENSTOCK_ASSIGN_OR_RETURN(table.products[shape], tuner.Tune(shape));
      progress(shape, table.products[shape], ++done, total);
    }
  }
  return table;
}

}  // namespace penstock
