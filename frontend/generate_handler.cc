#include "frontend/generate_handler.h"

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "frontend/generate_codec.h"
#include "frontend/rpc_status.h"

namespace penstock {
namespace {

uint64_t FreshSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

absl::Time Deadline(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

// Held by gRPC until OnDone, by the engine until OnFinish and by its task of the delivery thread.
class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public TokenSink,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  explicit GenerateCall(TaskThread& delivery) : delivery_(delivery) {}

  void Begin(const ServiceState& state, const grpc::CallbackServerContext& context,
             const grpc::ByteBuffer& bytes) {
    self_ = shared_from_this();
    const absl::Status status = Admit(state, context, bytes);
    if (status.ok()) return;
    std::lock_guard<std::mutex> lock(mutex_);
    finished_ = true;
    Finish(ToRpcStatus(status));
  }

  // gRPC's calls.

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      writing_ = false;
      if (!ok) gone_ = true;
    }
    if (!ok) Abort();
    Pump();
  }

  void OnCancel() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      gone_ = true;
    }
    Abort();
    Pump();
  }

  void OnDone() override { const auto last = std::move(self_); }

  // The engine thread's calls.

  void OnPrompt(std::span<const PromptLogprob>) override {}

  void OnTokens(std::span<const GeneratedToken> tokens) override {
    std::lock_guard<std::mutex> lock(mutex_);
    pending_.insert(pending_.end(), tokens.begin(), tokens.end());
    WakeDelivery();
  }

  void OnFinish(FinishReason reason, const absl::Status& status) override {
    std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    reason_ = reason;
    status_ = status;
    WakeDelivery();
  }

 private:
  absl::Status Admit(const ServiceState& state, const grpc::CallbackServerContext& context,
                     const grpc::ByteBuffer& bytes) {
    PENSTOCK_ASSIGN_OR_RETURN(ModelRuntime* const runtime, state.Ready());
    PENSTOCK_ASSIGN_OR_RETURN(const v1::GenerateRequest message, ParseGenerateRequest(bytes));
    const ClientRequest asked = DecodeGenerateRequest(message);
    PENSTOCK_ASSIGN_OR_RETURN(
        GenerationRequest request,
        ValidateRequest(asked, runtime->limits(), runtime->tokenizer(), FreshSeed()));
    request.deadline = Deadline(context);
    tokenizer_ = &runtime->tokenizer();
    detokenizer_.emplace(*tokenizer_);
    logprobs_ = asked.logprobs.has_value();
    prompt_ = request.prompt;
    seed_ = request.sampling.seed;
    PENSTOCK_ASSIGN_OR_RETURN(const RequestId id,
                              runtime->engine().Submit(std::move(request), shared_from_this()));
    // gRPC makes its calls only once StartGenerate has returned.
    engine_ = &runtime->engine();
    id_ = id;
    return absl::OkStatus();
  }

  // Of no effect on a request that has ended.
  void Abort() {
    if (engine_ != nullptr) engine_->Abort(id_);
  }

  // REQUIRES: mutex_ held.
  void WakeDelivery() {
    if (writing_ || std::exchange(woken_, true)) return;
    delivery_.Enqueue([call = shared_from_this()] {
      {
        std::lock_guard<std::mutex> lock(call->mutex_);
        call->woken_ = false;
      }
      call->Pump();
    });
  }

  // Starts the next write, or the end, if there is one and nothing is in flight. While writing_ or
  // finished_ is set only this call's last Pump touches what is below "the writer's".
  void Pump() {
    std::vector<GeneratedToken> tokens;
    bool last = false;
    bool gone = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (writing_ || finished_) return;
      gone = gone_;
      last = ended_;
      if (gone ? !ended_ : (pending_.empty() && !ended_)) return;
      tokens.swap(pending_);
      (last ? finished_ : writing_) = true;
    }
    if (gone) {
      Finish(ToRpcStatus(status_.ok() ? absl::CancelledError("the client left") : status_));
      return;
    }
    BuildMessage(tokens, last);
    if (last) {
      StartWriteAndFinish(&message_, grpc::WriteOptions(), ToRpcStatus(status_));
    } else {
      StartWrite(&message_);
    }
  }

  void BuildMessage(const std::vector<GeneratedToken>& tokens, bool last) {
    v1::GenerateResponse response;
    if (std::exchange(first_, false)) {
      response.mutable_prompt_ids()->Add(prompt_.begin(), prompt_.end());
    }
    for (const GeneratedToken& token : tokens) {
      response.add_ids(token.id);
      if (logprobs_) response.add_logprobs(token.logprob);
      if (!tokenizer_->IsEnd(token.id))
        response.mutable_text()->append(detokenizer_->Add(token.id));
    }
    completion_tokens_ += static_cast<int64_t>(tokens.size());
    if (last) {
      response.mutable_text()->append(detokenizer_->Finish());
      response.set_finish_reason(EncodeFinishReason(reason_));
      v1::Usage* usage = response.mutable_usage();
      usage->set_prompt_tokens(static_cast<int64_t>(prompt_.size()));
      usage->set_completion_tokens(completion_tokens_);
      usage->set_seed(seed_);
    }
    message_.Clear();
    bool own = false;
    const grpc::Status serialized =
        grpc::SerializationTraits<v1::GenerateResponse>::Serialize(response, &message_, &own);
    PENSTOCK_CHECK(serialized.ok());
  }

  TaskThread& delivery_;
  std::shared_ptr<GenerateCall> self_;

  // Constant once submitted.
  EngineLoop* engine_ = nullptr;  // null: refused
  RequestId id_ = 0;
  const Tokenizer* tokenizer_ = nullptr;
  bool logprobs_ = false;
  std::vector<int32_t> prompt_;
  uint64_t seed_ = 0;

  // The writer's.
  std::optional<StreamingDetokenizer> detokenizer_;
  grpc::ByteBuffer message_;
  bool first_ = true;
  int64_t completion_tokens_ = 0;

  std::mutex mutex_;
  // All below is guarded by mutex_; reason_ and status_ are constant once ended_.
  std::vector<GeneratedToken> pending_;
  bool ended_ = false;  // the engine has made its last call
  FinishReason reason_ = FinishReason::kError;
  absl::Status status_;
  bool woken_ = false;    // a task of the delivery thread will look
  bool writing_ = false;  // OnWriteDone will look
  bool gone_ = false;     // the client has left
  bool finished_ = false;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerate(const ServiceState& state,
                                                          TaskThread& delivery,
                                                          grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer& request) {
  const auto call = std::make_shared<GenerateCall>(delivery);
  call->Begin(state, *context, request);
  return call.get();
}

}  // namespace penstock
