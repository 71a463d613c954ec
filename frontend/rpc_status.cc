#include "frontend/rpc_status.h"

#include "google/rpc/status.pb.h"

namespace penstock {
namespace {

// A slot is free, or a queue shorter, after about this time.
constexpr int64_t kRetrySeconds = 1;

}  // namespace

grpc::Status ToRpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.raw_code());
  if (status.code() != absl::StatusCode::kResourceExhausted) return {code, Message(status)};
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(kRetrySeconds);
  google::rpc::Status details;
  details.set_code(status.raw_code());
  details.set_message(Message(status));
  details.add_details()->PackFrom(retry);
  return {code, Message(status), details.SerializeAsString()};
}

absl::Status FromRpcStatus(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

}  // namespace penstock
