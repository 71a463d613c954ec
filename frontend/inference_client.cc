#include "frontend/inference_client.h"

#include <string>
#include <utility>
#include <vector>

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

// Of a server's answers: far more than any server gives.
constexpr int kMaxChoices = 1 << 16;

TokenLogprob Decode(const v1::TokenLogprob& message) { return {message.id(), message.logprob()}; }

std::vector<TokenLogprob> Decode(
    const google::protobuf::RepeatedPtrField<v1::TokenLogprob>& messages) {
  std::vector<TokenLogprob> logprobs;
  for (const v1::TokenLogprob& each : messages) logprobs.push_back(Decode(each));
  return logprobs;
}

void Append(const v1::GenerateResponse& response, Choice* choice) {
  choice->text += response.text();
  choice->ids.insert(choice->ids.end(), response.ids().begin(), response.ids().end());
  choice->logprobs.insert(choice->logprobs.end(), response.logprobs().begin(),
                          response.logprobs().end());
  for (const v1::TopLogprobs& top : response.top_logprobs()) {
    choice->top_logprobs.push_back(Decode(top.tokens()));
  }
  if (response.finish_reason() == v1::FINISH_REASON_UNSPECIFIED) return;
  choice->finish_reason = FinishReasonName(response.finish_reason());
  if (response.has_stop_text()) choice->stop_text = response.stop_text();
  if (response.has_stop_id()) choice->stop_id = response.stop_id();
  choice->error = response.error();
}

absl::Status Append(const v1::GenerateResponse& response, Generation* generation) {
  generation->prompt_ids.insert(generation->prompt_ids.end(), response.prompt_ids().begin(),
                                response.prompt_ids().end());
  for (const v1::PromptLogprob& each : response.prompt_logprobs()) {
    generation->prompt_logprobs.push_back({Decode(each.token()), Decode(each.top())});
  }
  if (response.choice() < 0 || response.choice() >= kMaxChoices) {
    return absl::InternalError(
        absl::StrCat("the server's answer has the number ", response.choice()));
  }
  const auto choice = static_cast<size_t>(response.choice());
  if (choice >= generation->choices.size()) generation->choices.resize(choice + 1);
  Append(response, &generation->choices[choice]);
  return absl::OkStatus();
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

absl::StatusOr<GenerateOutcome> InferenceClient::Generate(const v1::GenerateRequest& request,
                                                          absl::Duration timeout,
                                                          const TextCallback& on_text,
                                                          Generation* partial) {
  Call call(*this, timeout);
  const absl::Time start = absl::Now();
  const std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader =
      stub_->Generate(call.context(), request);
  GenerateOutcome outcome;
  outcome.generation.choices.resize(1);
  v1::GenerateResponse response;
  absl::Status broken;
  bool has_ids = false;
  while (broken.ok() && reader->Read(&response)) {
    if (!has_ids && response.ids_size() > 0) {
      has_ids = true;
      outcome.to_first_token = absl::Now() - start;
    }
    broken = Append(response, &outcome.generation);
    if (broken.ok() && !response.text().empty()) on_text(response.choice(), response.text());
    if (response.has_usage()) outcome.usage = response.usage();
  }
  if (!broken.ok()) call.context()->TryCancel();
  outcome.total = absl::Now() - start;
  const grpc::Status status = reader->Finish();
  if (partial != nullptr) *partial = outcome.generation;
  PENSTOCK_RETURN_IF_ERROR(broken);
  if (!status.ok()) return FromRpcStatus(status);
  for (const Choice& choice : outcome.generation.choices) {
    if (choice.finish_reason.empty()) {
      return absl::InternalError("the server's answer ended without a finish reason");
    }
  }
  return outcome;
}

void InferenceClient::Cancel() {
  std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
  if (running_ != nullptr) running_->TryCancel();
}

bool InferenceClient::CancelRunning() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (running_ == nullptr) return false;
  running_->TryCancel();
  return true;
}

}  // namespace penstock
