// The check file that may lie beside a model: what its tensors' bytes hash to and what it answers
// to a fixed prompt, written once by `penstock inspect --write-check`. A server that finds one
// does not get ready with anything else.
//
//   {"format": 1, "precision": "f32", "backend": "cpu", "prompt_ids": [...], "ids": [...],
//    "tensors": {"embed_tokens.weight": "0123456789abcdef", ...}}
//
// Thread rule: plain values and functions without state.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/io/weight_source.h"
#include "core/model/model_config.h"

namespace penstock {

struct ModelCheck {
  // Of the answer: another precision or backend may give another.
  std::string precision = "f32";
  std::string backend = "cpu";
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> ids;                 // generated greedily
  std::map<std::string, uint64_t> tensors;  // Hash64 of the bytes, by canonical name
};

// Where the check file of a model lies: "<model>.check.json".
std::string CheckFilePath(const std::string& model);

// Errors: the file's; INVALID_ARGUMENT with the file and the key.
absl::StatusOr<ModelCheck> ReadModelCheck(const std::string& path);
// Replaces the file in one step. Errors: INVALID_ARGUMENT with the file.
absl::Status WriteModelCheck(const std::string& path, const ModelCheck& check);

// The hashes of all tensors of a model. Errors: the source's.
absl::StatusOr<std::map<std::string, uint64_t>> HashTensors(const WeightSource& source,
                                                            const ModelConfig& config);

}  // namespace penstock
