// `penstock generate`: one answer, from a server or from a model file. With a model file the very
// same service runs inside this process, reached over gRPC's in-process channel.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/base/status.h"
#include "frontend/client_request.h"
#include "frontend/model_connection.h"

namespace penstock {

struct GenerateOptions {
  ModelAddress model;
  std::optional<std::string> prompt;
  std::optional<std::vector<int32_t>> prompt_ids;
  bool special = false;
  std::optional<std::string> precision;  // the server must have it
  ClientSampling sampling;
  int32_t priority = 0;
  std::string tenant;
  absl::Duration timeout = absl::InfiniteDuration();
  bool json = false;
};

// The program's exit code; says on standard error what went wrong.
// REQUIRES: no thread has been started.
int RunGenerate(const GenerateOptions& options);

// "1,2,3". Errors: INVALID_ARGUMENT naming the item that is no token id.
absl::StatusOr<std::vector<int32_t>> ParseTokenIds(const std::string& text);

// "5=-1.5". Errors: INVALID_ARGUMENT for what is not a token id, = and a number.
absl::StatusOr<LogitBias> ParseLogitBias(const std::string& text);

}  // namespace penstock
