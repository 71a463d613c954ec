// Which of Hopper's ways to multiply sum in the same order: mma.sync, wgmma, cuBLASLt without a
// split of k. Random bf16 matrices; every output is compared bit for bit with a chain of mma.sync,
// k ascending. Then cuBLASLt's algorithms for the products of Llama-3-8B: which give the chain's
// bits, and how long they take.
//
// usage: sum_order          prints one line a size
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/warpgroup_mma.cuh"

using namespace penstock::cuda;
using Bf16 = __nv_bfloat16;
#define CK(x)                                                                   \
  do {                                                                          \
    const auto error = (x);                                                     \
    if (error != 0) {                                                           \
      printf("%s: error %d, line %d\n", #x, static_cast<int>(error), __LINE__); \
      exit(1);                                                                  \
    }                                                                           \
  } while (0)

__device__ uint32_t Hash(uint64_t i) {
  i ^= i >> 33;
  i *= 0xff51afd7ed558ccdULL;
  i ^= i >> 33;
  i *= 0xc4ceb9fe1a85ec53ULL;
  i ^= i >> 33;
  return (uint32_t)i;
}
__global__ void Fill(Bf16* p, int64_t n, uint64_t seed, int mixed) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
       i += (int64_t)gridDim.x * blockDim.x) {
    uint32_t a = Hash(i * 2 + seed), b = Hash(i * 2 + 1 + seed);
    float u = (a & 0xffff) / 65536.0f + (a >> 16) / 65536.0f + (b & 0xffff) / 65536.0f - 1.5f;
    if (mixed) u *= exp2f((float)((int)(b >> 16) % 17) - 8);
    p[i] = __float2bfloat16_rn(u);
  }
}
// kind 0: weights as a; 1: x as a; 2: weights as a, k's permuted inside each 16
template <int kKind>
__global__ void Chain(const Bf16* x, const Bf16* w, float* out, int M, int N, int K) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int rows_a = kKind == 1 ? M : N, rows_b = kKind == 1 ? N : M;
  const Bf16* A = kKind == 1 ? x : w;
  const Bf16* B = kKind == 1 ? w : x;
  const int a0 = (blockIdx.x * 4 + warp) * 16, b0 = blockIdx.y * 32;
  if (a0 >= rows_a) return;
  float c[4][4] = {};
  for (int k = 0; k < K; k += 16) {
    uint32_t a[4];
    const int k0 = kKind == 2 ? lane % 4 * 4 : lane % 4 * 2, k1 = kKind == 2 ? k0 + 2 : k0 + 8;
    for (int i = 0; i < 4; ++i) {
      const int r = a0 + lane / 4 + i % 2 * 8;
      a[i] = *(const uint32_t*)(A + (int64_t)r * K + k + (i / 2 ? k1 : k0));
    }
    for (int j = 0; j < 4; ++j) {
      const int r = min(b0 + j * 8 + lane / 4, rows_b - 1);
      const uint32_t b_0 = *(const uint32_t*)(B + (int64_t)r * K + k + k0);
      const uint32_t b_1 = *(const uint32_t*)(B + (int64_t)r * K + k + k1);
      MultiplyAdd<Bf16>(c[j], a, b_0, b_1);
    }
  }
  for (int j = 0; j < 4; ++j)
    for (int i = 0; i < 4; ++i) {
      const int ra = a0 + lane / 4 + i / 2 * 8, rb = b0 + j * 8 + lane % 4 * 2 + i % 2;
      if (ra >= rows_a || rb >= rows_b) continue;
      const int t = kKind == 1 ? ra : rb, n = kKind == 1 ? rb : ra;
      out[(int64_t)t * N + n] = c[j][i];
    }
}
// wgmma: 64 tokens x 128 rows a block; kRegs: a from registers, b across its rows
template <bool kRegs>
__global__ void WgChain(const Bf16* x, const Bf16* w, float* out, int M, int N, int K) {
  extern __shared__ uint8_t bytes[];
  uint8_t* sa = bytes + (-SharedAddress(bytes) & 1023);
  uint8_t* sb = sa + 64 * 128;
  const int t0 = blockIdx.y * 64, n0 = blockIdx.x * 128, lane = threadIdx.x % 32;
  using S = SwizzledTile<64>;
  using S2 = SwizzledTile<128>;
  float c[64];
  for (int i = 0; i < 64; ++i) c[i] = 0;
  for (int k = 0; k < K; k += 64) {
    __syncthreads();
    for (int i = threadIdx.x; i < 64 * 8; i += 128)
      *(uint4*)(sa + S::UnitOffset(i / 8, i % 8)) =
          *(const uint4*)(x + (int64_t)(t0 + i / 8) * K + k + i % 8 * 8);
    if (!kRegs) {
      for (int i = threadIdx.x; i < 128 * 8; i += 128)
        *(uint4*)(sb + S::UnitOffset(i / 8, i % 8)) =
            *(const uint4*)(w + (int64_t)(n0 + i / 8) * K + k + i % 8 * 8);
    } else {  // [k][n], two slabs of 64 columns
      for (int i = threadIdx.x; i < 64 * 128; i += 128) {
        const int kk = i % 64, n = i / 64;
        uint8_t* slab = sb + n / 64 * 64 * 128;
        *(Bf16*)(slab + S2::UnitOffset(kk, n % 64 / 8) + n % 8 * 2) =
            w[(int64_t)(n0 + n) * K + k + kk];
      }
    }
    FenceSharedWrites();
    __syncthreads();
    HoldRegisters(c);
    FenceProducts();
    if (!kRegs) {
      for (int j = 0; j < 4; ++j)
        MultiplyRows<Bf16>(c, S::AlongRows(SharedAddress(sa) + j * 32),
                           S::AlongRows(SharedAddress(sb) + j * 32), true);
      CommitProducts();
      WaitForProducts<0>();
      HoldRegisters(c);
    } else {
      uint32_t a[4][4];
      for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 4; ++i) {
          const int r = threadIdx.x / 32 * 16 + lane / 4 + i % 2 * 8;
          const int kk = j * 16 + lane % 4 * 2 + i / 2 * 8;
          a[j][i] = *(uint32_t*)(sa + S::UnitOffset(r, kk / 8) + kk % 8 * 2);
        }
      for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(a[j][i]));
      FenceProducts();
#pragma unroll
      for (int j = 0; j < 4; ++j)
        MultiplyAcross<Bf16, 128>(c, a[j],
                                  S2::AcrossRows(SharedAddress(sb) + j * 16 * 128, 64 * 128));
      CommitProducts();
      WaitForProducts<0>();
      HoldRegisters(c);
    }
  }
  for (int i = 0; i < 64; ++i) {
    const int t = t0 + threadIdx.x / 32 * 16 + lane / 4 + i / 2 % 2 * 8,
              n = n0 + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (t < M && n < N) out[(int64_t)t * N + n] = c[i];
  }
}
__global__ void Compare(const float* a, const float* b, int64_t n, unsigned long long* bad) {
  unsigned long long c = 0;
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
       i += (int64_t)gridDim.x * blockDim.x)
    c += __float_as_uint(a[i]) != __float_as_uint(b[i]);
  if (c) atomicAdd(bad, c);
}
__global__ void CompareB(const float* a, const Bf16* b, int64_t n, unsigned long long* bad) {
  unsigned long long c = 0;
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
       i += (int64_t)gridDim.x * blockDim.x)
    c += __bfloat16_as_ushort(__float2bfloat16_rn(a[i])) != __bfloat16_as_ushort(b[i]);
  if (c) atomicAdd(bad, c);
}
unsigned long long* bad;
unsigned long long Diff(const float* ref, const void* got, int64_t n, bool f32) {
  CK(cudaMemset(bad, 0, 8));
  if (f32)
    Compare<<<264, 256>>>(ref, (const float*)got, n, bad);
  else
    CompareB<<<264, 256>>>(ref, (const Bf16*)got, n, bad);
  unsigned long long h;
  CK(cudaMemcpy(&h, bad, 8, cudaMemcpyDeviceToHost));
  return h;
}
cublasLtHandle_t lt;
void* ws;
const size_t kWs = 32 << 20;
struct Prob {
  cublasLtMatmulDesc_t d;
  cublasLtMatrixLayout_t a, b, c;
  Prob(int M, int N, int K, bool f32) {
    CK(cublasLtMatmulDescCreate(&d, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    cublasOperation_t t = CUBLAS_OP_T;
    CK(cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t));
    CK(cublasLtMatrixLayoutCreate(&a, CUDA_R_16BF, K, N, K));
    CK(cublasLtMatrixLayoutCreate(&b, CUDA_R_16BF, K, M, K));
    CK(cublasLtMatrixLayoutCreate(&c, f32 ? CUDA_R_32F : CUDA_R_16BF, N, M, N));
  }
};
std::vector<cublasLtMatmulHeuristicResult_t> Ask(Prob& p, int n, size_t wsb, uint32_t mask) {
  cublasLtMatmulPreference_t f;
  CK(cublasLtMatmulPreferenceCreate(&f));
  CK(cublasLtMatmulPreferenceSetAttribute(f, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &wsb,
                                          sizeof wsb));
  CK(cublasLtMatmulPreferenceSetAttribute(f, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &mask,
                                          sizeof mask));
  std::vector<cublasLtMatmulHeuristicResult_t> r(n);
  int got = 0;
  auto s = cublasLtMatmulAlgoGetHeuristic(lt, p.d, p.a, p.b, p.c, p.c, f, n, r.data(), &got);
  if (s != 0) got = 0;
  r.resize(got);
  return r;
}
std::string Tell(const cublasLtMatmulAlgo_t& al) {
  int id = 0, tile = 0, st = 0, sk = 0, red = 0, cus = 0, sw = 0;
  uint16_t cl = 0, inner = 0;
  size_t g;
  cublasLtMatmulAlgoConfigGetAttribute(&al, CUBLASLT_ALGO_CONFIG_ID, &id, 4, &g);
  cublasLtMatmulAlgoConfigGetAttribute(&al, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile, 4, &g);
  cublasLtMatmulAlgoConfigGetAttribute(&al, CUBLASLT_ALGO_CONFIG_STAGES_ID, &st, 4, &g);
  cublasLtMatmulAlgoConfigGetAttribute(&al, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &sk, 4, &g);
  cublasLtMatmulAlgoConfigGetAttribute(&al, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &red, 4, &g);
  cublasLtMatmulAlgoConfigGetAttribute(&al, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, &sw, 4, &g);
  cublasLtMatmulAlgoConfigGetAttribute(&al, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, &cus, 4, &g);
  cublasLtMatmulAlgoConfigGetAttribute(&al, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &cl, 2, &g);
  cublasLtMatmulAlgoConfigGetAttribute(&al, CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, &inner, 2, &g);
  char b[128];
  snprintf(b, sizeof b, "id%d tile%d st%d k%d r%d cl%d cus%d", id, tile, st, sk, red, cl, cus);
  return b;
}
void Run(Prob& p, const Bf16* w, const Bf16* x, void* out, const cublasLtMatmulAlgo_t& al,
         size_t wsb) {
  float one = 1, zero = 0;
  CK(cublasLtMatmul(lt, p.d, &one, w, p.a, x, p.b, &zero, out, p.c, out, p.c, &al, ws, wsb, 0));
}
int main() {
  CK(cublasLtCreate(&lt));
  CK(cudaMalloc(&ws, kWs));
  CK(cudaMalloc(&bad, 8));
  printf("cublasLt %zu\n", cublasLtGetVersion());
  const int64_t nw = 128256ll * 4096;
  const int maxM = 2048;
  Bf16 *w, *x;
  float* ref;
  uint8_t* out;
  CK(cudaMalloc(&w, nw * 2));
  CK(cudaMalloc(&x, maxM * 14336ll * 2));
  CK(cudaMalloc(&ref, 2048ll * 28672 * 4));
  CK(cudaMalloc(&out, 2048ll * 28672 * 4));
  CK(cudaFuncSetAttribute(WgChain<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10));
  CK(cudaFuncSetAttribute(WgChain<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10));
  for (int mixed = 0; mixed < 2; ++mixed)
    for (int K : {64, 1024, 4096, 14336}) {
      const int M = 512, N = 4096;
      Fill<<<1024, 256>>>(w, (int64_t)N * K, 1 + K, mixed);
      Fill<<<1024, 256>>>(x, (int64_t)M * K, 77777777777ull + K, mixed);
      Chain<0><<<dim3(N / 64, M / 32), 128>>>(x, w, ref, M, N, K);
      CK(cudaDeviceSynchronize());
      auto run = [&](int kind) {
        CK(cudaMemset(out, 0xff, (int64_t)M * N * 4));
        if (kind == 0) Chain<1><<<dim3(M / 64, N / 32), 128>>>(x, w, (float*)out, M, N, K);
        if (kind == 1) Chain<2><<<dim3(N / 64, M / 32), 128>>>(x, w, (float*)out, M, N, K);
        if (kind == 2)
          WgChain<false><<<dim3(N / 128, M / 64), 128, 40 << 10>>>(x, w, (float*)out, M, N, K);
        if (kind == 3)
          WgChain<true><<<dim3(N / 128, M / 64), 128, 40 << 10>>>(x, w, (float*)out, M, N, K);
        CK(cudaGetLastError());
        CK(cudaDeviceSynchronize());
        return Diff(ref, out, (int64_t)M * N, true);
      };
      printf(
          "mixed %d K %5d of %d outputs differ from mma.sync: swapped %llu, permuted k %llu, wgmma "
          "%llu, wgmma regs %llu",
          mixed, K, M * N, run(0), run(1), run(2), run(3));
      Prob p(M, N, K, true);
      auto r = Ask(p, 1, 0, 0);
      if (!r.empty()) {
        Run(p, w, x, out, r[0].algo, 0);
        printf(", cublasLt f32 out %llu (%s)", Diff(ref, out, (int64_t)M * N, true),
               Tell(r[0].algo).c_str());
      }
      printf("\n");
      fflush(stdout);
    }
  Fill<<<1024, 256>>>(w, nw, 5, 0);
  Fill<<<1024, 256>>>(x, maxM * 14336ll, 99, 0);
  struct {
    int N, K;
    bool f32;
  } shapes[] = {{6144, 4096, false},
                {4096, 4096, false},
                {28672, 4096, false},
                {4096, 14336, false},
                {128256, 4096, true}};
  cudaEvent_t e0, e1;
  cudaEventCreate(&e0);
  cudaEventCreate(&e1);
  for (auto& s : shapes) {
    const int64_t size = (int64_t)s.N * s.K;
    const int copies = std::max<int64_t>(1, nw / size);
    const int top = s.f32 ? 256 : 2048;
    Chain<0><<<dim3((s.N + 63) / 64, top / 32), 128>>>(x, w, ref, top, s.N, s.K);
    CK(cudaDeviceSynchronize());
    for (int M : {1, 8, 17, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048}) {
      if (M > top) break;
      Prob p(M, s.N, s.K, s.f32);
      auto time = [&](const cublasLtMatmulAlgo_t& al, size_t wsb) {
        const int reps = M > 256 ? 6 : 16;
        for (int i = 0; i < 2; ++i) Run(p, w + i % copies * size, x, out, al, wsb);
        cudaEventRecord(e0);
        for (int i = 0; i < reps; ++i) Run(p, w + i % copies * size, x, out, al, wsb);
        cudaEventRecord(e1);
        CK(cudaEventSynchronize(e1));
        float ms;
        cudaEventElapsedTime(&ms, e0, e1);
        CK(cudaMemset(out, 0xff, (int64_t)M * s.N * 4));
        Run(p, w, x, out, al, wsb);
        return ms / reps * 1000;
      };
      auto def = Ask(p, 1, kWs, ~0u);
      const double t0 = time(def[0].algo, kWs);
      const auto d0 = Diff(ref, out, (int64_t)M * s.N, s.f32);
      auto rs = Ask(p, 10, 0, 0);
      int equal = 0;
      double best = 1e9, first = 1e9;
      std::string best_name, bad_name;
      for (size_t i = 0; i < rs.size(); ++i) {
        const double t = time(rs[i].algo, 0);
        const bool eq = Diff(ref, out, (int64_t)M * s.N, s.f32) == 0;
        equal += eq;
        if (eq && i == 0) first = t;
        if (eq && t < best) best = t, best_name = Tell(rs[i].algo);
        if (!eq) bad_name += " BAD " + Tell(rs[i].algo);
      }
      printf(
          "N%-6d K%-5d M%-4d default %7.1f us (%s) diff %llu | no split: equal %d of %zu, first "
          "%7.1f best %7.1f us (%s)%s\n",
          s.N, s.K, M, t0, Tell(def[0].algo).c_str(), d0, equal, rs.size(), first, best,
          best_name.c_str(), bad_name.substr(0, 120).c_str());
      fflush(stdout);
    }
  }
}
