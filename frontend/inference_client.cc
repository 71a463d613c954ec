#include "frontend/inference_client.h"

#include <string>

#include "absl/time/clock.h"
#include "frontend/rpc_status.h"

namespace penstock {
namespace {

std::string FinishReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_ABORT:
      return "abort";
    case v1::FINISH_REASON_ERROR:
      return "error";
    default:
      return "";
  }
}

void Append(const v1::GenerateResponse& response, Generation* generation) {
  generation->text += response.text();
  generation->ids.insert(generation->ids.end(), response.ids().begin(), response.ids().end());
  generation->logprobs.insert(generation->logprobs.end(), response.logprobs().begin(),
                              response.logprobs().end());
  generation->prompt_ids.insert(generation->prompt_ids.end(), response.prompt_ids().begin(),
                                response.prompt_ids().end());
}

}  // namespace

class InferenceClient::Call {
 public:
  Call(InferenceClient& client, absl::Duration timeout) : client_(client) {
    if (timeout < absl::InfiniteDuration()) {
      context_.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    }
    std::lock_guard<std::mutex> lock(client_.mutex_);
    client_.running_ = &context_;
    if (client_.cancelled_) context_.TryCancel();
  }
  ~Call() {
    std::lock_guard<std::mutex> lock(client_.mutex_);
    client_.running_ = nullptr;
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  grpc::ClientContext* context() { return &context_; }

 private:
  InferenceClient& client_;
  grpc::ClientContext context_;
};

InferenceClient::InferenceClient(const std::shared_ptr<grpc::Channel>& channel)
    : stub_(v1::Inference::NewStub(channel)) {}

absl::StatusOr<v1::GetModelInfoResponse> InferenceClient::GetModelInfo(absl::Duration timeout) {
  Call call(*this, timeout);
  v1::GetModelInfoResponse response;
  const grpc::Status status = stub_->GetModelInfo(call.context(), {}, &response);
  if (!status.ok()) return FromRpcStatus(status);
  return response;
}

absl::StatusOr<GenerateOutcome> InferenceClient::Generate(
    const v1::GenerateRequest& request, absl::Duration timeout,
    const std::function<void(std::string_view)>& on_text) {
  Call call(*this, timeout);
  const absl::Time start = absl::Now();
  const std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader =
      stub_->Generate(call.context(), request);
  GenerateOutcome outcome;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (outcome.generation.ids.empty() && response.ids_size() > 0) {
      outcome.to_first_token = absl::Now() - start;
    }
    Append(response, &outcome.generation);
    if (!response.text().empty()) on_text(response.text());
    if (response.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
      outcome.generation.finish_reason = FinishReasonName(response.finish_reason());
      outcome.usage = response.usage();
    }
  }
  outcome.total = absl::Now() - start;
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return FromRpcStatus(status);
  if (outcome.generation.finish_reason.empty()) {
    return absl::InternalError("the server's answer ended without a finish reason");
  }
  return outcome;
}

void InferenceClient::Cancel() {
  std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
  if (running_ != nullptr) running_->TryCancel();
}

}  // namespace penstock
