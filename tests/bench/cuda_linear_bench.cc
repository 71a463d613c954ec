// The linear layers of a decode step: a chain of one layer's four products, many layers long so
// that level 2 holds none of them twice, as one graph; ours (skinny_linear) beside cuBLASLt's best
// algorithm for each shape and skinny_chain, and the share of the read bandwidth measured in the
// same run. Each product is checked against float64 before it is timed. With --gated: the product
// of gate and up of batches with swiglu, behind rms_norm; cuBLASLt's and swiglu beside gated_linear
// by its plans (rows/slots), whose results are checked against them.
// usage: cuda_linear_bench [--gated]
// Prints one JSON line a measurement.
#include <cublasLt.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "cuda/blas.h"
#include "cuda/ceilings.h"
#include "cuda/cuda_check.h"
#include "cuda/gated_linear.h"
#include "cuda/kernels/launchers.h"
#include "cuda/measuring.h"
#include "cuda/skinny_chain.h"
#include "cuda/skinny_linear.h"
#include "tests/bench/cuda_bench.h"

namespace penstock::bench {
namespace {

struct Gemm {
  int64_t out;
  int64_t in;
};

// ---- cuBLASLt
// ------------------------------------------------------------------------------------

class LtLinear {
 public:
  LtLinear() {
    BLAS_CHECK(cublasLtCreate(&handle_));
    CUDA_CHECK(cudaMalloc(&workspace_, kWorkspace));
  }

  // The fastest of the algorithms that the library proposes, timed in a graph over all weights.
  cublasLtMatmulAlgo_t Tune(const CudaStream& stream, const Tensor& x,
                            const std::vector<Tensor>& weights, const Tensor& out) {
    cublasLtMatmulPreference_t preference;
    BLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference));
    BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspace, sizeof(kWorkspace)));
    cublasLtMatmulHeuristicResult_t found[8];
    int count = 0;
    const Layouts layouts(x, weights[0], out);
    BLAS_CHECK(cublasLtMatmulAlgoGetHeuristic(handle_, layouts.operation, layouts.weight, layouts.x,
                                              layouts.out, layouts.out, preference, 8, found,
                                              &count));
    double best = INFINITY;
    cublasLtMatmulAlgo_t algorithm = found[0].algo;
    for (int i = 0; i < count; ++i) {
      const double us = GraphMicroseconds(
          stream,
          [&] {
            for (const Tensor& w : weights) Run(stream, x, w, out, found[i].algo);
          },
          5);
      if (us < best) algorithm = found[i].algo;
      best = std::min(best, us);
    }
    return algorithm;
  }

  void Run(const CudaStream& stream, const Tensor& x, const Tensor& weight, const Tensor& out,
           const cublasLtMatmulAlgo_t& algorithm) {
    const Layouts layouts(x, weight, out);
    const float one = 1;
    const float zero = 0;
    BLAS_CHECK(cublasLtMatmul(handle_, layouts.operation, &one, weight.raw(), layouts.weight,
                              x.raw(), layouts.x, &zero, out.raw(), layouts.out,
                              const_cast<void*>(out.raw()), layouts.out, &algorithm, workspace_,
                              kWorkspace, stream.get()));
  }

 private:
  static constexpr size_t kWorkspace = size_t{32} << 20;

  // cuBLAS counts columns first: out^T = weight x^T.
  struct Layouts {
    Layouts(const Tensor& x_tensor, const Tensor& w, const Tensor& o) {
      BLAS_CHECK(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
      const cublasOperation_t transposed = CUBLAS_OP_T;
      BLAS_CHECK(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                                sizeof(transposed)));
      Create(&weight, w.dim(1), w.dim(0));
      Create(&x, x_tensor.dim(1), x_tensor.dim(0));
      Create(&out, o.dim(1), o.dim(0));
    }
    static void Create(cublasLtMatrixLayout_t* layout, int64_t rows, int64_t columns) {
      BLAS_CHECK(cublasLtMatrixLayoutCreate(layout, CUDA_R_16BF, static_cast<uint64_t>(rows),
                                            static_cast<uint64_t>(columns), rows));
    }
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t weight = nullptr;
    cublasLtMatrixLayout_t x = nullptr;
    cublasLtMatrixLayout_t out = nullptr;
  };

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
};

void Check(const Tensor& x, const Tensor& weight, const Tensor& out, const char* what) {
  const double error = LinearError(x, weight, out);
  if (error < 1e-2) return;  // NaN is not
  std::printf("%s: %ld x %ld at %ld tokens is wrong: relative error %g\n", what, weight.dim(0),
              weight.dim(1), x.dim(0), error);
  std::exit(1);
}

// ---- The chains
// ----------------------------------------------------------------------------------

std::vector<cuda::GatedPlan> GatedPlans(int64_t tokens) {
  std::vector<cuda::GatedPlan> plans;
  for (const int rows : {112, 176, 192, 224}) {
    for (const int slots : {5, 8}) plans.push_back({rows, slots});
  }
  std::erase_if(plans, [&](const cuda::GatedPlan& plan) { return !IsGatedPlan(plan, tokens); });
  return plans;
}

struct Chain {
  const char* name;
  std::vector<Gemm> gemms;
  int layers;
};

void Bench(const CudaStream& stream, LtLinear& lt, const Chain& chain,
           const std::vector<int64_t>& token_counts, double bandwidth) {
  std::vector<std::vector<Tensor>> weights(chain.gemms.size());
  double bytes = 0;
  for (int layer = 0; layer < chain.layers; ++layer) {
    for (size_t i = 0; i < chain.gemms.size(); ++i) {
      const Gemm& gemm = chain.gemms[i];
      weights[i].push_back(Random(DataType::kBF16, {gemm.out, gemm.in},
                                  static_cast<uint32_t>(layer * 16) + static_cast<uint32_t>(i),
                                  0.02f));
      bytes += static_cast<double>(weights[i].back().bytes());
    }
  }
  for (const int64_t tokens : token_counts) {
    std::vector<Tensor> xs;
    std::vector<Tensor> outs;
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (size_t i = 0; i < chain.gemms.size(); ++i) {
      const Gemm& gemm = chain.gemms[i];
      xs.push_back(Random(DataType::kBF16, {tokens, gemm.in}, 77 + static_cast<uint32_t>(i)));
      outs.push_back(Uninitialized(DataType::kBF16, {tokens, gemm.out}));
      cuda::LaunchSkinnyLinear(stream.get(), xs[i], weights[i][0], outs[i]);
      stream.Synchronize();
      Check(xs[i], weights[i][0], outs[i], "ours");
      algorithms.push_back(lt.Tune(stream, xs[i], weights[i], outs[i]));
      lt.Run(stream, xs[i], weights[i][1], outs[i], algorithms[i]);
      stream.Synchronize();
      Check(xs[i], weights[i][1], outs[i], "cuBLASLt");
    }
    const auto ours = [&] {
      const size_t count = xs.size();
      const size_t all = count * static_cast<size_t>(chain.layers);
      for (size_t at = 0; at < all; ++at) {
        const size_t next = (at + 1) % all;
        cuda::LaunchSkinnyLinear(stream.get(), xs[at % count], weights[at % count][at / count],
                                 outs[at % count], false, weights[next % count][next / count]);
      }
    };
    const auto theirs = [&] {
      for (size_t layer = 0; layer < static_cast<size_t>(chain.layers); ++layer) {
        for (size_t i = 0; i < xs.size(); ++i) {
          lt.Run(stream, xs[i], weights[i][layer], outs[i], algorithms[i]);
        }
      }
    };
    // The fixed order of sums: where skinny_chain does not take the shape, cuBLASLt's stands.
    bool has_chain = true;
    for (size_t i = 0; i < xs.size(); ++i) {
      if (!cuda::IsSkinnyChain(xs[i], weights[i][0], outs[i])) {
        has_chain = false;
        continue;
      }
      cuda::LaunchSkinnyChain(stream.get(), xs[i], weights[i][0], outs[i]);
      stream.Synchronize();
      Check(xs[i], weights[i][0], outs[i], "skinny_chain");
    }
    const auto chained = [&] {
      for (size_t layer = 0; layer < static_cast<size_t>(chain.layers); ++layer) {
        for (size_t i = 0; i < xs.size(); ++i) {
          if (cuda::IsSkinnyChain(xs[i], weights[i][layer], outs[i])) {
            cuda::LaunchSkinnyChain(stream.get(), xs[i], weights[i][layer], outs[i]);
          } else {
            lt.Run(stream, xs[i], weights[i][layer], outs[i], algorithms[i]);
          }
        }
      }
    };
    double us[3];
    us[0] = GraphMicroseconds(stream, ours);
    us[2] = GraphMicroseconds(stream, chained);
    us[1] = GraphMicroseconds(stream, theirs);
    us[1] = std::min(us[1], GraphMicroseconds(stream, theirs));
    us[2] = std::min(us[2], GraphMicroseconds(stream, chained));
    us[0] = std::min(us[0], GraphMicroseconds(stream, ours));
    std::printf(
        "{\"chain\": \"%s\", \"tokens\": %ld, \"mb\": %.1f, \"ours_us\": %.2f, \"lt_us\": %.2f, "
        "\"ours_share\": %.3f, \"lt_share\": %.3f, \"chain_us\": %.2f, \"all_chain\": %d}\n",
        chain.name, tokens, bytes / chain.layers * 1e-6, us[0] / chain.layers, us[1] / chain.layers,
        bytes / us[0] * 1e6 / bandwidth, bytes / us[1] * 1e6 / bandwidth, us[2] / chain.layers,
        has_chain);
    std::fflush(stdout);
  }
}

// ---- Gate and up with swiglu, of batches
// ----------------------------------------------------------------

// Between the kernels of a step: rms_norm of the residual sum stands before each product.
void BenchGated(const CudaStream& stream, LtLinear& lt, const Gemm& gemm, int layers,
                const std::vector<int64_t>& token_counts) {
  const int64_t width = gemm.out / 2;
  std::vector<Tensor> weights;
  for (int layer = 0; layer < layers; ++layer) {
    weights.push_back(
        Random(DataType::kBF16, {gemm.out, gemm.in}, static_cast<uint32_t>(layer + 1), 0.02f));
  }
  const Tensor gain = Random(DataType::kBF16, {gemm.in}, 5);
  for (const int64_t tokens : token_counts) {
    const Tensor residual = Random(DataType::kF32, {tokens, gemm.in}, 77);
    const Tensor x = Uninitialized(DataType::kBF16, {tokens, gemm.in});
    const Tensor gate_up = Uninitialized(DataType::kBF16, {tokens, gemm.out});
    const Tensor apart = Uninitialized(DataType::kBF16, {tokens, width});
    const Tensor out = Uninitialized(DataType::kBF16, {tokens, width});
    const auto norm = [&] { cuda::LaunchRmsNorm(stream.get(), residual, gain, 1e-5f, x); };
    norm();
    const cublasLtMatmulAlgo_t algorithm = lt.Tune(stream, x, weights, gate_up);
    lt.Run(stream, x, weights[0], gate_up, algorithm);
    cuda::LaunchSwiglu(stream.get(), gate_up, apart);
    stream.Synchronize();
    Check(x, weights[0], gate_up, "cuBLASLt");
    const auto theirs = [&] {
      for (const Tensor& weight : weights) {
        norm();
        lt.Run(stream, x, weight, gate_up, algorithm);
        cuda::LaunchSwiglu(stream.get(), gate_up, apart);
      }
    };
    const double before = GraphMicroseconds(stream, theirs) / layers;
    std::string ours;
    double best = INFINITY;
    for (const cuda::GatedPlan& plan : GatedPlans(tokens)) {
      lt.Run(stream, x, weights[0], gate_up, algorithm);
      cuda::LaunchSwiglu(stream.get(), gate_up, apart);
      cuda::LaunchGatedBatch(stream.get(), x, weights[0], out, plan);
      const double error = cuda::Difference(stream.get(), out, apart);
      const std::string name = absl::StrFormat("%d/%d", plan.rows, plan.slots);
      if (!(error < 1e-2)) {
        std::printf("gated_linear %s: %ld tokens: relative error %g\n", name.c_str(), tokens,
                    error);
        std::exit(1);
      }
      const double us = GraphMicroseconds(
                            stream,
                            [&] {
                              for (const Tensor& weight : weights) {
                                norm();
                                cuda::LaunchGatedBatch(stream.get(), x, weight, out, plan);
                              }
                            },
                            9) /
                        layers;
      best = std::min(best, us);
      absl::StrAppendFormat(&ours, ", \"%s\": %.2f", name, us);
    }
    const double after = GraphMicroseconds(stream, theirs) / layers;
    std::printf(
        "{\"gated\": \"%ld x %ld\", \"tokens\": %ld, \"lt_and_swiglu_us\": [%.2f, %.2f], "
        "\"best_us\": %.2f%s}\n",
        gemm.out, gemm.in, tokens, before, after, best, ours.c_str());
    std::fflush(stdout);
  }
}

int RunGated() {
  PrintDevice();
  const CudaStream stream;
  {
    const Tensor data = Random(DataType::kBF16, {int64_t{2} << 30}, 1);
    std::printf("{\"read_bandwidth_gb_s\": %.1f}\n", MeasureReadBandwidth(data) * 1e-9);
  }
  LtLinear lt;
  const std::vector<int64_t> tokens = {24, 32, 48, 64, 96, 128, 192, 256};
  BenchGated(stream, lt, {28672, 4096}, 6, tokens);
  BenchGated(stream, lt, {22016, 4096}, 8, tokens);
  return 0;
}

int Run() {
  PrintDevice();
  const CudaStream stream;
  double bandwidth = 0;
  {
    const Tensor data = Random(DataType::kBF16, {int64_t{2} << 30}, 1);
    bandwidth = MeasureReadBandwidth(data);
    std::printf("{\"read_bandwidth_gb_s\": %.1f}\n", bandwidth * 1e-9);
  }
  LtLinear lt;
  const Gemm qkv7{12288, 4096}, o{4096, 4096}, up7{22016, 4096}, down7{4096, 11008};
  const Gemm qkv8{6144, 4096}, up8{28672, 4096}, down8{4096, 14336};
  const std::vector<int64_t> all = {1, 2, 4, 8, 16};
  Bench(stream, lt, {"7B layer", {qkv7, o, up7, down7}, 8}, all, bandwidth);
  Bench(stream, lt, {"8B layer", {qkv8, o, up8, down8}, 8}, all, bandwidth);
  const std::vector<int64_t> some = {1, 8, 16};
  Bench(stream, lt, {"12288 x 4096", {qkv7}, 16}, some, bandwidth);
  Bench(stream, lt, {"6144 x 4096", {qkv8}, 24}, some, bandwidth);
  Bench(stream, lt, {"4096 x 4096", {o}, 32}, some, bandwidth);
  Bench(stream, lt, {"22016 x 4096", {up7}, 12}, some, bandwidth);
  Bench(stream, lt, {"28672 x 4096", {up8}, 10}, some, bandwidth);
  Bench(stream, lt, {"4096 x 11008", {down7}, 16}, some, bandwidth);
  Bench(stream, lt, {"4096 x 14336", {down8}, 16}, some, bandwidth);
  Bench(stream, lt, {"32000 x 4096", {{32000, 4096}}, 8}, some, bandwidth);
  Bench(stream, lt, {"128256 x 4096", {{128256, 4096}}, 3}, some, bandwidth);
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) {
  const bool gated = argc > 1 && std::string_view(argv[1]) == "--gated";
  return gated ? penstock::bench::RunGated() : penstock::bench::Run();
}
