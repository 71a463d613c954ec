#include "frontend/generate_handler.h"

#include <grpc/grpc.h>
#include <grpcpp/alarm.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "frontend/generate_choice.h"
#include "frontend/generate_codec.h"
#include "frontend/rpc_status.h"
#include "frontend/slow_reader.h"

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

absl::Status ReadsTooSlowly(const RequestLimits& limits) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "the client reads too slowly: more than ", limits.max_stream_buffer_bytes >> 10,
      " KiB of its answers waited for it for ", absl::FormatDuration(limits.slow_reader_timeout),
      ", or ", SlowReader::kMostTimes,
      " times as much: read faster, or ask for fewer answers or log-probabilities "
      "(--max-stream-buffer-kib, --slow-reader-timeout)"));
}

// Held by gRPC until OnDone, by the engine until each choice's OnFinish and by its task of the
// delivery thread.
class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  GenerateCall(TaskThread& delivery, grpc::CallbackServerContext& context)
      : delivery_(delivery), context_(context) {}

  void Begin(const ServiceState& state, const grpc::ByteBuffer& bytes) {
    self_ = shared_from_this();
    const absl::Status status = Admit(state, bytes);
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
      if (!ok) Leave(absl::CancelledError("the client left"));
    }
    if (!ok) AbortAll();
    Pump();
  }

  void OnCancel() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      Leave(absl::CancelledError("the client left"));
    }
    AbortAll();
    Pump();
  }

  void OnDone() override { const auto last = std::move(self_); }

 private:
  // The engine thread's calls of one choice.
  class Sink final : public TokenSink {
   public:
    Sink(std::shared_ptr<GenerateCall> call, int32_t choice)
        : call_(std::move(call)), choice_(choice) {}
    void OnPrompt(std::span<const PromptLogprob> logprobs) override {
      call_->Update(choice_, [&](GenerateChoice& choice) { choice.AddPrompt(logprobs); });
    }
    void OnTokens(std::span<const GeneratedToken> tokens) override {
      call_->Update(choice_, [&](GenerateChoice& choice) { choice.AddTokens(tokens); });
    }
    void OnFinish(FinishReason reason, const absl::Status& status) override {
      call_->Update(choice_, [&](GenerateChoice& choice) { choice.End(reason, status); });
    }

   private:
    const std::shared_ptr<GenerateCall> call_;
    const int32_t choice_;
  };

  absl::Status Admit(const ServiceState& state, const grpc::ByteBuffer& bytes) {
    PENSTOCK_ASSIGN_OR_RETURN(ModelRuntime* const runtime, state.Ready());
    v1::GenerateRequest message;
    PENSTOCK_RETURN_IF_ERROR(ParseMessage(bytes, &message));
    PENSTOCK_ASSIGN_OR_RETURN(
        CheckedRequest checked,
        ValidateRequest(DecodeGenerateRequest(message), runtime->limits(), runtime->tokenizer(),
                        runtime->chat_template(), FreshSeed()));
    GenerationRequest& generation = checked.generation;
    generation.deadline = RequestDeadline(Deadline(context_), absl::Now(), runtime->limits());
    limits_ = &runtime->limits();
    reader_.emplace(limits_->max_stream_buffer_bytes, limits_->slow_reader_timeout);
    prompt_ = generation.prompt;
    seed_ = generation.sampling.seed;
    tell_prompt_ = generation.sampling.prompt_logprobs >= 0;
    std::vector<std::shared_ptr<TokenSink>> sinks;
    for (int32_t i = 0; i < checked.n; ++i) {
      choices_.push_back(std::make_unique<GenerateChoice>(runtime->tokenizer(), checked, i));
      sinks.push_back(std::make_shared<Sink>(shared_from_this(), i));
    }
    PENSTOCK_ASSIGN_OR_RETURN(const RequestId id, runtime->engine().SubmitChoices(
                                                      std::move(generation), std::move(sinks)));
    // gRPC makes its calls only once StartGenerate has returned, and the delivery thread waits.
    std::lock_guard<std::mutex> lock(mutex_);
    engine_ = &runtime->engine();
    first_id_ = id;
    if (AnyHasWork()) WakeDelivery();
    WatchReader();
    return absl::OkStatus();
  }

  void Update(int32_t index, const std::function<void(GenerateChoice&)>& change) {
    std::lock_guard<std::mutex> lock(mutex_);
    GenerateChoice& choice = *choices_[static_cast<size_t>(index)];
    const int64_t before = choice.buffered_bytes();
    change(choice);
    if (gone_) choice.Discard();
    reader_->Change(choice.buffered_bytes() - before, absl::Now());
    WakeDelivery();
    WatchReader();
  }

  // Nobody takes the answers any more. REQUIRES: mutex_ held.
  void Leave(const absl::Status& why) {
    if (std::exchange(gone_, true)) return;
    gone_status_ = why;
    for (const auto& choice : choices_) choice->Discard();
  }

  // Has the reader looked at when its time is up. REQUIRES: mutex_ held.
  void WatchReader() {
    const absl::Time at = reader_->cut_at();
    if (engine_ == nullptr || finished_ || gone_ || at >= watched_until_) return;
    watched_until_ = at;
    // Not here: the engine thread sets no timers of gRPC's and aborts nothing.
    delivery_.Enqueue([call = shared_from_this()] { call->CheckReader(); });
  }

  void CheckReader() {
    grpc_call* call = nullptr;
    absl::Status status;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      watched_until_ = absl::InfiniteFuture();
      const absl::Time at = reader_->cut_at();
      if (finished_ || gone_ || at == absl::InfiniteFuture()) return;
      if (at > absl::Now()) {
        watched_until_ = at;
        alarm_ = std::make_unique<grpc::Alarm>();
        alarm_->Set(absl::ToChronoTime(at), [self = shared_from_this()](bool due) {
          if (due) self->CheckReader();
        });
        return;
      }
      status = ReadsTooSlowly(*limits_);
      Leave(status);
      // gRPC keeps the call as long as it has not been finished.
      call = context_.c_call();
      grpc_call_ref(call);
    }
    AbortAll();
    // A Finish would wait behind the write that the client does not read; this ends it, and the
    // client still learns why. gRPC's C++ has only TryCancel, which tells nothing.
    const std::string message = Message(status);
    grpc_call_cancel_with_status(call, GRPC_STATUS_RESOURCE_EXHAUSTED, message.c_str(), nullptr);
    grpc_call_unref(call);
    Pump();
  }

  // Of no effect on requests that have ended.
  void AbortAll() {
    if (engine_ == nullptr) return;
    for (size_t i = 0; i < choices_.size(); ++i) Abort(i);
  }
  void Abort(size_t choice) { engine_->Abort(first_id_ + static_cast<RequestId>(choice)); }

  // REQUIRES: mutex_ held.
  void WakeDelivery() {
    if (engine_ == nullptr || writing_ || finished_ || std::exchange(woken_, true)) return;
    delivery_.Enqueue([call = shared_from_this()] {
      {
        std::lock_guard<std::mutex> lock(call->mutex_);
        call->woken_ = false;
      }
      call->Pump();
    });
  }

  // REQUIRES: mutex_ held.
  bool AnyHasWork() const {
    return std::any_of(choices_.begin(), choices_.end(),
                       [](const auto& choice) { return choice->HasWork(); });
  }
  bool AllEnded() const {
    return std::all_of(choices_.begin(), choices_.end(),
                       [](const auto& choice) { return choice->ended(); });
  }

  // The next choice in turn that has something to send; none before the first choice has told all
  // of the prompt. REQUIRES: mutex_ held, no other writer.
  std::optional<size_t> NextChoice() {
    if (tell_prompt_ && !choices_[0]->prompt_told()) {
      return choices_[0]->HasWork() ? std::optional<size_t>(0) : std::nullopt;
    }
    for (size_t i = 0; i < choices_.size(); ++i) {
      const size_t choice = (turn_ + i) % choices_.size();
      if (choices_[choice]->done() || !choices_[choice]->HasWork()) continue;
      turn_ = choice + 1;
      return choice;
    }
    return std::nullopt;
  }

  // Starts the next write, or the end, if there is one and nothing is in flight. Whoever sets
  // writing_ or finished_ is the writer: what is below "the writer's" is its own.
  void Pump() {
    ChoiceWork work;
    std::optional<size_t> choice;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (writing_ || finished_) return;
      if (gone_) {
        if (!AllEnded()) return;
        SetFinished();
      } else {
        choice = NextChoice();
        if (!choice.has_value()) return;
        const int64_t before = choices_[*choice]->buffered_bytes();
        work = choices_[*choice]->Take();
        reader_->Change(choices_[*choice]->buffered_bytes() - before, absl::Now());
        writing_ = true;
      }
    }
    if (!choice.has_value()) {
      Finish(ToRpcStatus(gone_status_));
      return;
    }
    v1::GenerateResponse response;
    if (std::exchange(first_, false)) {
      response.mutable_prompt_ids()->Add(prompt_.begin(), prompt_.end());
    }
    choices_[*choice]->Write(work, &response);
    // The engine goes on where only a stop text has ended a choice.
    if (choices_[*choice]->done() && !work.last) Abort(*choice);
    const bool last =
        std::all_of(choices_.begin(), choices_.end(), [](const auto& one) { return one->done(); });
    if (last) SetUsage(response.mutable_usage());
    SerializeMessage(response, &message_);
    if (!last) {
      StartWrite(&message_);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      SetFinished();
    }
    StartWriteAndFinish(&message_, grpc::WriteOptions(), ToRpcStatus(CallStatus()));
  }

  // REQUIRES: mutex_ held.
  void SetFinished() {
    finished_ = true;
    alarm_ = nullptr;  // it holds this call
  }

  void SetUsage(v1::Usage* usage) const {
    int64_t tokens = 0;
    for (const auto& choice : choices_) tokens += choice->num_tokens();
    usage->set_prompt_tokens(static_cast<int64_t>(prompt_.size()));
    usage->set_completion_tokens(tokens);
    usage->set_seed(seed_);
  }

  // REQUIRES: every choice is done.
  absl::Status CallStatus() const {
    absl::Status internal;
    bool answered = false;
    for (const auto& choice : choices_) {
      const absl::Status& status = choice->status();
      if (status.ok()) {
        answered = true;
      } else if (status.code() != absl::StatusCode::kInternal) {
        return status;
      } else if (internal.ok()) {
        internal = status;
      }
    }
    return answered ? absl::OkStatus() : internal;
  }

  TaskThread& delivery_;
  grpc::CallbackServerContext& context_;  // until finished_
  std::shared_ptr<GenerateCall> self_;

  // Constant once submitted.
  std::vector<std::unique_ptr<GenerateChoice>> choices_;
  std::vector<int32_t> prompt_;
  const RequestLimits* limits_ = nullptr;
  bool tell_prompt_ = false;
  uint64_t seed_ = 0;

  // The writer's.
  grpc::ByteBuffer message_;
  bool first_ = true;

  std::mutex mutex_;
  // All below is guarded by mutex_; engine_ and first_id_ are constant before any other call.
  EngineLoop* engine_ = nullptr;  // null: not submitted
  RequestId first_id_ = 0;        // of choice 0; the others follow
  size_t turn_ = 0;               // the choice that is looked at first
  bool woken_ = false;            // a task of the delivery thread will look
  bool writing_ = false;          // OnWriteDone will look
  bool gone_ = false;             // the client has left, or was cut off
  absl::Status gone_status_;      // constant once gone_
  std::optional<SlowReader> reader_;
  absl::Time watched_until_ = absl::InfiniteFuture();  // when CheckReader comes; infinite: never
  std::unique_ptr<grpc::Alarm> alarm_;
  bool finished_ = false;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerate(const ServiceState& state,
                                                          TaskThread& delivery,
                                                          grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer& request) {
  const auto call = std::make_shared<GenerateCall>(delivery, *context);
  call->Begin(state, request);
  return call.get();
}

}  // namespace penstock
