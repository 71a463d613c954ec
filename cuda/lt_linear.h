// LtLinear: cuBLASLt's products out = x weight^T, with the algorithm of each shape asked for once.
// The library's heuristic takes some 50 microseconds, a product's launch a few, so answers are
// kept: by types, sizes, strides and alignment, for numbers of tokens in steps of at most a half. A
// stage that has run each of these numbers while loading asks nothing in service. A table of
// measured algorithms (core/io/gemm_table.h) comes before the heuristic.
//
// Where the order of sums is fixed (sum_chain.h) the algorithms that are asked for do not split k;
// each is held against the chain, bit for bit, and of those that give it the fastest is kept: which
// one that is changes no bit.
// One thread at a time. Errors: a failed call ends the process.
#pragma once

#include <cublasLt.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/io/gemm_table.h"
#include "core/tensor/tensor.h"

namespace penstock::cuda {

class LtLinear {
 public:
  // The numbers of tokens that have an algorithm: 1, 2, 3, 4, 6, 8, 12, 16, 24, ... The least that
  // is no less than `tokens`.
  static int64_t TokenBucket(int64_t tokens);

  // x [num_tokens, in], weight [out, in] of one type: f32, f16 or bf16; out [num_tokens, out] of
  // it or f32. Sums are f32, without TF32. Rows of x and out may be strided. `adds`: to what is in
  // out, by the same algorithm.
  // REQUIRES: the shapes fit; `workspace` may be written until the stream has passed the product.
  void Run(cublasLtHandle_t handle, cudaStream_t stream, const Tensor& x, const Tensor& weight,
           const Tensor& out, bool adds, void* workspace, size_t workspace_bytes);

  // The products of both halves of k, apart, where one alone would leave multiprocessors without
  // work: out [2, num_tokens, out_features] f32, dense. By the library's first proposal. False if
  // it has none. REQUIRES: in is even; x dense.
  bool RunHalves(cublasLtHandle_t handle, cudaStream_t stream, const Tensor& x,
                 const Tensor& weight, const Tensor& out);

  // The same in the order of sum_chain.h. False if no algorithm has it: nothing was run then. The
  // first product of its kind takes longer, waits, and leaves `workspace` with other bytes.
  bool RunChain(cublasLtHandle_t handle, cudaStream_t stream, const Tensor& x, const Tensor& weight,
                const Tensor& out, bool adds, void* workspace, size_t workspace_bytes);
  // From now on products take their algorithm from the table, where it has one that the library
  // accepts for them. REQUIRES: it is of this GPU and this version of the library.
  void UseTable(GemmTable table) { table_ = std::move(table); }

  // What measuring needs. The library's proposals for this product, the heuristic's first choice
  // first, none of the others with sums of another type than f32:
  std::vector<GemmAlgorithm> Candidates(cublasLtHandle_t handle, const Tensor& x,
                                        const Tensor& weight, const Tensor& out,
                                        size_t workspace_bytes, int most) const;
  // Runs this product with that algorithm, and from now on; false if the library does not.
  bool Try(cublasLtHandle_t handle, cudaStream_t stream, const Tensor& x, const Tensor& weight,
           const Tensor& out, void* workspace, size_t workspace_bytes,
           const GemmAlgorithm& algorithm);

 private:
  // Types of x and out; bucket, in, out; strides of x and out; common alignment in bytes.
  using Key = std::array<int64_t, 8>;
  static Key KeyOf(const Tensor& x, const Tensor& weight, const Tensor& out);

  absl::flat_hash_map<Key, cublasLtMatmulAlgo_t> algorithms_;
  absl::flat_hash_map<Key, std::optional<cublasLtMatmulAlgo_t>> chains_;
  absl::flat_hash_map<Key, std::optional<cublasLtMatmulAlgo_t>> halves_;
  GemmTable table_;
};

}  // namespace penstock::cuda
