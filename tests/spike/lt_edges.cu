// Whether cuBLASLt's kernels can stand behind a programmatic edge of a graph. Before each product a
// kernel lets the next one begin, waits 60 us, then writes x; its edge to the product is made
// programmatic. A product that waits as griddepcontrol.wait does has the right result, one that
// does not has multiplied the old x. Then what such edges would save between small kernels.
//
// usage: lt_edges           prints one line a product and algorithm, then one a product's times
#include <cublasLt.h>
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

using Bf16 = __nv_bfloat16;
#define CK(...)                                                                           \
  do {                                                                                    \
    const auto error = (__VA_ARGS__);                                                     \
    if (error != 0) {                                                                     \
      printf("%s: error %d, line %d\n", #__VA_ARGS__, static_cast<int>(error), __LINE__); \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)

constexpr int kTokens[] = {24, 64, 128, 256};
constexpr int kMaxTokens = 256;
constexpr size_t kMaxFeatures = 28672;
constexpr size_t kWeights = size_t{1} << 30;  // elements: much more than level 2 holds
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

__device__ uint32_t Hash(uint64_t i) {
  i ^= i >> 33;
  i *= 0xff51afd7ed558ccdULL;
  i ^= i >> 33;
  return static_cast<uint32_t>(i >> 7);
}
__global__ void Fill(Bf16* to, size_t count, uint64_t seed, float scale) {
  for (size_t i = blockIdx.x * size_t{256} + threadIdx.x; i < count; i += gridDim.x * size_t{256}) {
    to[i] = __float2bfloat16((Hash(i + seed) % 65536 / 32768.0f - 1) * scale);
  }
}

__device__ void LetNextBegin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ void WaitForInputs() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

__device__ int64_t Now() {
  int64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}
__global__ void WriteLate(Bf16* x, const Bf16* from, int count) {
  LetNextBegin();
  WaitForInputs();
  for (const int64_t start = Now(); Now() - start < 60000;) continue;
  for (int i = threadIdx.x; i < count; i += blockDim.x) x[i] = from[i];
}
// A small kernel with a block a row, as the norms are.
__global__ void CopyRow(const Bf16* from, Bf16* to, int features) {
  LetNextBegin();
  WaitForInputs();
  const auto* in = reinterpret_cast<const uint4*>(from + blockIdx.x * size_t(features));
  auto* out = reinterpret_cast<uint4*>(to + blockIdx.x * size_t(features));
  for (int i = threadIdx.x; i < features / 8; i += blockDim.x) out[i] = in[i];
}

template <typename... Parameters, typename... Arguments>
void Launch(cudaStream_t stream, int blocks, int threads, void (*kernel)(Parameters...),
            Arguments... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  CK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

struct Product {
  Product(cublasLtHandle_t lt, int out, int in, int tokens) : handle(lt) {
    CK(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    CK(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                      sizeof(transposed)));
    CK(cublasLtMatrixLayoutCreate(&weight, CUDA_R_16BF, in, out, in));
    CK(cublasLtMatrixLayoutCreate(&x, CUDA_R_16BF, in, tokens, in));
    CK(cublasLtMatrixLayoutCreate(&result, CUDA_R_16BF, out, tokens, out));
  }
  std::vector<cublasLtMatmulHeuristicResult_t> Algorithms(int most) const {
    cublasLtMatmulPreference_t preference;
    CK(cublasLtMatmulPreferenceCreate(&preference));
    CK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                            &kWorkspaceBytes, sizeof(kWorkspaceBytes)));
    std::vector<cublasLtMatmulHeuristicResult_t> found(most);
    int count = 0;
    CK(cublasLtMatmulAlgoGetHeuristic(handle, operation, weight, x, result, result, preference,
                                      most, found.data(), &count));
    found.resize(count);
    return found;
  }
  void Run(cudaStream_t stream, const Bf16* w, const Bf16* in, Bf16* out, void* workspace,
           const cublasLtMatmulAlgo_t& algorithm) const {
    const float one = 1;
    const float zero = 0;
    CK(cublasLtMatmul(handle, operation, &one, w, weight, in, x, &zero, out, result, out, result,
                      &algorithm, workspace, kWorkspaceBytes, stream));
  }

  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t weight, x, result;
};

bool IsKernel(cudaGraphNode_t node) {
  cudaGraphNodeType type;
  CK(cudaGraphNodeGetType(node, &type));
  return type == cudaGraphNodeTypeKernel;
}
std::string Name(cudaGraphNode_t node) {
  CUDA_KERNEL_NODE_PARAMS parameters = {};
  const char* name = "?";
  if (!IsKernel(node)) return "no kernel";
  CK(cuGraphKernelNodeGetParams(reinterpret_cast<CUgraphNode>(node), &parameters));
  if (parameters.func != nullptr) {
    CK(cuFuncGetName(&name, parameters.func));
  } else if (parameters.kern != nullptr) {
    CK(cuKernelGetName(&name, parameters.kern));
  }
  return std::string(name).substr(0, 60);
}

// Full edges between kernels become programmatic if `convert`; how many did, and all edges' text.
cudaGraphExec_t Instantiate(cudaGraph_t graph, bool convert, int* converted, std::string* text) {
  size_t count = 0;
  CK(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &count));
  std::vector<cudaGraphNode_t> from(count), to(count);
  std::vector<cudaGraphEdgeData> edges(count);
  CK(cudaGraphGetEdges(graph, from.data(), to.data(), edges.data(), &count));
  *converted = 0;
  text->clear();
  for (size_t i = 0; i < count; ++i) {
    const bool is_full = edges[i].type != cudaGraphDependencyTypeProgrammatic;
    *text += Name(from[i]) + (is_full ? " => " : " -> ") + Name(to[i]) + "; ";
    if (!convert || !is_full || !IsKernel(from[i]) || !IsKernel(to[i])) continue;
    CK(cudaGraphRemoveDependencies(graph, &from[i], &to[i], &edges[i], 1));
    cudaGraphEdgeData edge = {};
    edge.from_port = cudaGraphKernelNodePortProgrammatic;
    edge.type = cudaGraphDependencyTypeProgrammatic;
    CK(cudaGraphAddDependencies(graph, &from[i], &to[i], &edge, 1));
    ++*converted;
  }
  cudaGraphExec_t ready;
  CK(cudaGraphInstantiate(&ready, graph, 0));
  return ready;
}

int main() {
  cublasLtHandle_t lt;
  cudaStream_t stream;
  CK(cudaFree(nullptr));
  CK(cublasLtCreate(&lt));
  CK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const auto make = [&](size_t elements, uint64_t seed, float scale) {
    void* memory = nullptr;
    CK(cudaMalloc(&memory, elements * 2));
    Fill<<<1024, 256, 0, stream>>>(static_cast<Bf16*>(memory), elements, seed << 40, scale);
    return static_cast<Bf16*>(memory);
  };
  const size_t rows = kMaxFeatures * kMaxTokens;
  Bf16* old_x = make(rows, 1, 1);
  Bf16* new_x = make(rows, 2, 1);
  Bf16* x = make(rows, 3, 1);
  Bf16* out = make(rows, 4, 1);
  Bf16* copy = make(rows, 5, 1);
  Bf16* weights = make(kWeights, 6, 0.02f);
  void* workspace = make(kWorkspaceBytes / 2, 7, 0);
  const struct {
    int out, in;
  } sizes[] = {{12288, 4096}, {4096, 4096},  {22016, 4096}, {4096, 11008},
               {6144, 4096},  {28672, 4096}, {4096, 14336}};
  int waiting = 0;
  int tried = 0;
  int converted = 0;
  std::string text;
  for (const auto& size : sizes) {
    for (const int tokens : kTokens) {
      const Product product(lt, size.out, size.in, tokens);
      const size_t bytes = size_t(size.out) * tokens * 2;
      std::vector<char> expected(bytes), result(bytes);
      for (const auto& algorithm : product.Algorithms(8)) {
        product.Run(stream, weights, new_x, out, workspace, algorithm.algo);
        CK(cudaMemcpyAsync(expected.data(), out, bytes, cudaMemcpyDeviceToHost, stream));
        cudaGraph_t graph;
        CK(cudaStreamSynchronize(stream));
        CK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        CK(cudaMemcpyAsync(x, old_x, rows * 2, cudaMemcpyDeviceToDevice, stream));
        Launch(stream, 1, 1024, WriteLate, x, new_x, size.in * tokens);
        product.Run(stream, weights, x, out, workspace, algorithm.algo);
        Launch(stream, tokens, 256, CopyRow, out, copy, size.out);
        CK(cudaStreamEndCapture(stream, &graph));
        const cudaGraphExec_t ready = Instantiate(graph, true, &converted, &text);
        bool is_right = true;
        for (int run = 0; run < 3; ++run) {
          CK(cudaMemsetAsync(out, 0xff, bytes, stream));
          CK(cudaGraphLaunch(ready, stream));
          CK(cudaMemcpyAsync(result.data(), out, bytes, cudaMemcpyDeviceToHost, stream));
          CK(cudaStreamSynchronize(stream));
          is_right = is_right && result == expected;
        }
        if (converted > 0) ++tried;
        if (converted > 0 && is_right) ++waiting;
        printf("%d x %d, %d tokens: %s: %s\n", size.out, size.in, tokens,
               converted == 0 ? "no edge to change"
               : is_right     ? "waits"
                              : "does not wait",
               text.c_str());
        CK(cudaGraphExecDestroy(ready));
        CK(cudaGraphDestroy(graph));
      }
    }
  }
  printf("%d of %d wait\n", waiting, tried);
  for (const auto& size : sizes) {
    for (const int tokens : kTokens) {
      const Product product(lt, size.out, size.in, tokens);
      const auto algorithm = product.Algorithms(1)[0].algo;
      const size_t one = size_t(size.out) * size.in;
      const int layers = static_cast<int>(std::min<size_t>(kWeights / one, 16));
      float median[2];
      for (const bool convert : {false, true}) {
        cudaGraph_t graph;
        CK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        for (int i = 0; i < layers; ++i) {
          Launch(stream, tokens, 256, CopyRow, new_x, x, size.in);
          product.Run(stream, weights + i * one, x, out, workspace, algorithm);
        }
        CK(cudaStreamEndCapture(stream, &graph));
        const cudaGraphExec_t ready = Instantiate(graph, convert, &converted, &text);
        cudaEvent_t begin, end;
        CK(cudaEventCreate(&begin));
        CK(cudaEventCreate(&end));
        std::vector<float> times(15);
        for (float& time : times) {
          CK(cudaEventRecord(begin, stream));
          CK(cudaGraphLaunch(ready, stream));
          CK(cudaEventRecord(end, stream));
          CK(cudaStreamSynchronize(stream));
          CK(cudaEventElapsedTime(&time, begin, end));
        }
        std::sort(times.begin(), times.end());
        median[convert] = times[7] * 1000 / layers;
        CK(cudaGraphExecDestroy(ready));
        CK(cudaGraphDestroy(graph));
      }
      printf("%d x %d, %d tokens: row kernel and product %.2f us, programmatic %.2f us\n", size.out,
             size.in, tokens, median[0], median[1]);
    }
  }
}
