// Models without a file, "dummy:NAME": the shapes of real ones, seeded weights, and a vocabulary of
// bytes. For benchmarks and for trying out a deployment. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/model/model_config.h"
#include "core/tensor/data_type.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

inline constexpr std::string_view kDummyPrefix = "dummy:";

struct DummyModel {
  ModelConfig config;
  DataType type = DataType::kBF16;  // of the weight matrices
};

// By the name behind "dummy:". Errors: NOT_FOUND, with the names that there are.
absl::StatusOr<DummyModel> FindDummyModel(std::string_view name);

// A token for each of the 256 bytes, then tokens that no text becomes but that have a text, so that
// every id that a model of random weights samples can be shown. None of them ends a generation.
// REQUIRES: vocab_size >= 256.
TokenizerSpec MakeDummyTokenizer(int64_t vocab_size);

}  // namespace penstock
