// A table of matrix-product algorithms that `penstock tune` has measured on a GPU: for each product
// of a model's layers and each number of tokens the library's algorithm that was fastest.
//
//   {"format": 1, "gpu": "NVIDIA H200", "cublaslt": 130000, "products": [
//     {"type": "bf16", "out_type": "bf16", "tokens": 64, "in": 4096, "out": 12288,
//      "algorithm": [66, 600, 1, 0, 0, 0, 36, 0, 3], "us": 31.5, "heuristic_us": 35.2}, ...]}
//
// An algorithm is the library's own numbers (cublasLtMatmulAlgoConfigAttributes_t, in that order),
// which mean something to that version on that GPU only; the library checks them before they are
// used. Numbers of tokens between two rows take the larger one's.
// Thread rule: plain values and functions without state.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "core/base/status.h"
#include "core/tensor/data_type.h"

namespace penstock {

// out = x weight^T; weight of x's type.
struct GemmShape {
  DataType type = DataType::kBF16;
  DataType out_type = DataType::kBF16;
  int64_t in_features = 0;
  int64_t out_features = 0;
  int64_t tokens = 0;

  bool operator==(const GemmShape&) const = default;
  // By tokens last.
  bool operator<(const GemmShape& other) const {
    return std::tie(type, out_type, in_features, out_features, tokens) <
           std::tie(other.type, other.out_type, other.in_features, other.out_features,
                    other.tokens);
  }
};

// id, tile, split_k, reduction scheme, swizzle, custom option, stages, inner shape, cluster shape.
using GemmAlgorithm = std::array<int64_t, 9>;

struct TunedGemm {
  GemmAlgorithm algorithm = {};
  double microseconds = 0;            // measured
  double heuristic_microseconds = 0;  // of what the library proposes first, in the same run

  bool operator==(const TunedGemm&) const = default;
};

struct GemmTable {
  std::string gpu;              // as the driver names it
  int64_t library_version = 0;  // of cuBLASLt
  std::map<GemmShape, TunedGemm> products;

  bool operator==(const GemmTable&) const = default;

  // The row of this shape, or of the next larger number of tokens, if that is at most twice as
  // many; else nullptr.
  const TunedGemm* Find(const GemmShape& shape) const;
};

std::string GemmTableJson(const GemmTable& table);
// Tells tables apart: of its JSON.
uint64_t GemmTableHash(const GemmTable& table);

// `name` stands for the file in messages. Errors: INVALID_ARGUMENT with the file and the place;
// UNIMPLEMENTED for another format.
absl::StatusOr<GemmTable> ParseGemmTable(const std::string& name, std::string_view json);
// Errors: the file's, NOT_FOUND if there is none; those of ParseGemmTable.
absl::StatusOr<GemmTable> ReadGemmTable(const std::string& path);
// Replaces the file in one step, and makes its folder. Errors: INVALID_ARGUMENT with the file.
absl::Status WriteGemmTable(const std::string& path, const GemmTable& table);

// Where the table of a GPU lies if nobody says otherwise: penstock/gemm-<gpu>.json in
// $XDG_CACHE_HOME, or in ~/.cache; empty if the environment names neither.
std::string DefaultGemmTablePath(const std::string& gpu);

}  // namespace penstock
