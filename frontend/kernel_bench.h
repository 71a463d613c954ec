// The kernels that `penstock bench kernels` times, at the shapes of a model, on any backend: each
// is checked against float64 first, and then repeated over more inputs than caches hold. One
// thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/base/device_ceilings.h"
#include "core/model/backend.h"
#include "core/model/model_config.h"

namespace penstock {

struct KernelFigures {
  std::string kernel;
  std::string shape;
  double microseconds = 0;  // a call, the median of some runs of many
  double bytes = 0;         // read and written, at least
  double flops = 0;

  // Of the time that the ceilings allow at least, of what it takes; 0 where they do not say.
  double Share(const DeviceCeilings& ceilings) const;
};

class KernelBench {
 public:
  // Called with each kernel's figures as they come.
  using Report = std::function<void(const KernelFigures&)>;
  KernelBench(Backend& backend, const ModelConfig& config, Report report)
      : backend_(backend), config_(config), report_(std::move(report)) {}

  // What a step of so many tokens calls beside attention.
  // Errors: the allocators'; DATA_LOSS for a wrong result, naming the kernel.
  absl::Status RunRows(int64_t tokens);
  // Attention of sequences that decode one token over a context each; of one whole prompt.
  absl::Status RunDecode(int64_t batch, int64_t context);
  absl::Status RunPrefill(int64_t tokens);

 private:
  // The value of element i is DummyValue(key, bound, i), rounded to the backend's type.
  struct Values {
    uint64_t key;
    float bound;
    double At(int64_t i) const;
  };
  struct Attention;

  absl::StatusOr<Tensor> Place(const Values& values, const Shape& shape);
  absl::StatusOr<std::vector<Tensor>> PlaceMany(const Values& values, const Shape& shape,
                                                int64_t count);
  absl::StatusOr<Tensor> MakeOut(const Shape& shape, DataType type);
  // Of tensors that take so many bytes, sets that fill more than caches hold.
  static int64_t SetsOf(double bytes);

  absl::Status RunNorms(int64_t tokens);
  absl::Status RunSwiglu(int64_t tokens);
  absl::Status RunLinear(const std::string& name, int64_t tokens, int64_t in, int64_t out,
                         DataType out_type, bool adds);
  absl::Status MakeAttention(int64_t rows, int64_t tokens_each, int64_t context,
                             Attention* attention);
  absl::Status CheckAttention(const std::string& kernel, const Attention& attention,
                              int64_t tokens_each, const Tensor& out);

  // Runs `enqueue` once, with the output in memory that the host reads, and compares what is at
  // these places of it.
  absl::Status Check(const std::string& kernel, const Tensor& out,
                     const std::function<void(const Tensor& out)>& enqueue,
                     const std::vector<int64_t>& places,
                     const std::function<double(int64_t place)>& expected);
  // `enqueue(i)` for sets 0, 1, ..., again and again.
  void Time(KernelFigures figures, int64_t sets, const std::function<void(int64_t)>& enqueue);

  Backend& backend_;
  const ModelConfig config_;
  const Report report_;
  int64_t graphs_ = 0;
};

}  // namespace penstock
