// The checks before a server says that it is ready: the whole path, from the queue to the sampler,
// generates a few greedy tokens from a fixed prompt, and does so again inside a batch and from the
// middle of the answer. Whoever computes wrongly seldom does so twice in the same way.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/io/check_file.h"
#include "frontend/model_runtime.h"

namespace penstock {

// The fixed prompt's ids for this model, and what it generates. Errors: INTERNAL for an answer that
// does not come, or that holds a number that is none; the engine's.
struct KnownAnswer {
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> ids;
};
absl::StatusOr<KnownAnswer> GenerateKnownAnswer(ModelRuntime& runtime);

// `expected`: the check file's, from `path`; its answer counts if it was made in the same precision
// and on the same backend. Blocks for some tenths of a second. REQUIRES: the engine has no
// requests. Errors: INTERNAL for answers that differ, DATA_LOSS for another one than the check
// file's; all say what to do.
absl::Status CheckAnswers(ModelRuntime& runtime, const std::optional<ModelCheck>& expected,
                          const std::string& path, bool exact);

// Where the check file is to be looked for while `model` loads; empty: nowhere. Errors: NOT_FOUND
// when there must be one and is none.
absl::StatusOr<std::string> FindCheckFile(const std::string& model, bool required);

}  // namespace penstock
