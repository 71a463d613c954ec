// InferenceClient: penstock.v1.Inference from the client's side, one call at a time.
// Thread rule: the owner's thread; Cancel from any.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string_view>

#include "absl/time/time.h"
#include "core/base/status.h"
#include "frontend/json_text.h"
#include "penstock/v1/inference.grpc.pb.h"

namespace penstock {

struct GenerateOutcome {
  Generation generation;  // one choice at least
  v1::Usage usage;
  absl::Duration to_first_token;
  absl::Duration total;
};

class InferenceClient {
 public:
  explicit InferenceClient(const std::shared_ptr<grpc::Channel>& channel);

  // Errors: the call's.
  absl::StatusOr<v1::GetModelInfoResponse> GetModelInfo(absl::Duration timeout);

  // Calls `on_text` with each piece of an answer as it comes, and the answer's number; blocks until
  // the end of all. `partial`, if not null, is what had come when the call failed.
  // Errors: the call's; INTERNAL for an answer that contradicts itself.
  using TextCallback = std::function<void(int choice, std::string_view text)>;
  absl::StatusOr<GenerateOutcome> Generate(const v1::GenerateRequest& request,
                                           absl::Duration timeout, const TextCallback& on_text,
                                           Generation* partial = nullptr);

  // Cancels the call that runs, and every later one.
  void Cancel();
  // Cancels the call that runs; false if there is none.
  bool CancelRunning();

 private:
  // Makes a call's context known to Cancel while the call runs.
  class Call;

  const std::unique_ptr<v1::Inference::Stub> stub_;
  std::mutex mutex_;
  grpc::ClientContext* running_ = nullptr;  // guarded by mutex_
  bool cancelled_ = false;                  // guarded by mutex_
};

}  // namespace penstock
