// `penstock chat`: a conversation on a terminal, with a server's model or one in this process.
// Reads lines of standard input too, without a terminal: one message each.
#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "frontend/client_request.h"
#include "frontend/model_connection.h"

namespace penstock {

struct ChatOptions {
  ModelAddress model;
  std::optional<std::string> system;  // absent: what the model's template says by default
  ClientSampling sampling;
  absl::Duration timeout = absl::InfiniteDuration();  // of one answer
};

// The program's exit code; says on standard error what went wrong. Without a terminal a message
// without an answer is a failure. REQUIRES: no thread has been started.
int RunChat(const ChatOptions& options);

}  // namespace penstock
