#include "frontend/worker_connection.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

#include "absl/time/clock.h"
#include "frontend/rpc_status.h"
#include "penstock/worker/v1/worker.grpc.pb.h"
#include "proto/worker_codec.h"

namespace penstock {
namespace {

using worker::v1::ControlRequest;
using worker::v1::ControlResponse;

constexpr absl::Duration kFirstRetry = absl::Milliseconds(5);
constexpr absl::Duration kLastRetry = absl::Milliseconds(250);
// A process that dies breaks its stream. Whichever is noticed first waits so long for the other:
// the stream may hold the last results, the process's end says better what happened.
constexpr absl::Duration kEndGrace = absl::Milliseconds(50);
// What a process gets to end by itself once its stream has ended.
constexpr absl::Duration kExitGrace = absl::Seconds(1);

}  // namespace

// Lock order: events_mutex_ is never taken while mutex_ is held.
class WorkerConnection::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(MakeChannel make_channel, WorkerConnectionOptions options,
       StageProvider::EventCallback events)
      : options_(std::move(options)),
        make_channel_(std::move(make_channel)),
        events_(std::move(events)) {}

  void Open(const StartProcess& start_process) {
    if (start_process != nullptr) {
      process_ = start_process([core = weak_from_this()](const std::string& how) {
        if (const std::shared_ptr<Core> self = core.lock()) self->OnProcessEnd(how);
      });
    }
    SetAlarm(&limit_alarm_, options_.connect_limit, [](Core& core) { core.OnLimit(); });
    StartCall();
  }

  void Send(ControlRequest request) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (over_) return;
    outbox_.push_back(std::move(request));
    StartNextWrite();
  }

  void Kill() {
    if (process_ != nullptr) {
      process_->Kill();
      return;
    }
    Lose(absl::UnavailableError(absl::StrCat(options_.name, " was given up")));
    CancelCall();
  }

  // No event after this. REQUIRES: not from an event.
  void Close() {
    {
      std::lock_guard<std::mutex> lock(events_mutex_);
      lost_ = true;
    }
    bool greeted = false;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      over_ = true;
      greeted = greeted_;
      limit_alarm_.reset();
      retry_alarm_.reset();
      if (calling_) call_->Cancel();
      changed_.wait(lock, [this] { return !calling_; });
    }
    // Here, and not on a thread of gRPC's, which the last channel would wait for: such a thread may
    // be the last to hold this.
    call_.reset();
    stub_.reset();
    make_channel_ = nullptr;
    // One that knows its front end ends with the stream, in good order.
    if (process_ != nullptr && greeted) process_->WaitForEnd(kExitGrace);
    process_.reset();
  }

 private:
  // One try at the stream.
  class Call final : public grpc::ClientBidiReactor<ControlRequest, ControlResponse> {
   public:
    explicit Call(std::shared_ptr<Core> core) : core_(std::move(core)) {}

    void Start() {
      core_->stub_->async()->Control(&context_, this);
      AddHold();  // requests may be written at any time: until the stream has broken
      StartRead(&response_);
      StartWrite(&core_->request_);
      StartCall();
    }
    void Cancel() { context_.TryCancel(); }

    void OnReadDone(bool ok) override {
      if (!ok) {
        {
          std::lock_guard<std::mutex> lock(core_->mutex_);
          broken_ = true;
        }
        RemoveHold();
        return;
      }
      core_->OnMessage(response_);
      StartRead(&response_);
    }

    void OnWriteDone(bool ok) override {
      std::lock_guard<std::mutex> lock(core_->mutex_);
      core_->writing_ = false;
      if (ok) core_->StartNextWrite();  // else the read fails too
    }

    void OnDone(const grpc::Status& status) override {
      const std::shared_ptr<Core> core = std::move(core_);  // this may be gone before it returns
      core->OnCallDone(status);
    }

    bool broken() const { return broken_; }

   private:
    std::shared_ptr<Core> core_;
    grpc::ClientContext context_;
    ControlResponse response_;  // belongs to gRPC while a read is in flight
    bool broken_ = false;       // guarded by the core's mutex_: nothing may be written any more
  };

  void StartCall() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (over_) return;
    request_.Clear();
    EncodeHello(
        {kWorkerProtocol, options_.version, 0, absl::ToInt64Nanoseconds(options_.beat_period)},
        request_.mutable_hello());
    writing_ = true;
    calling_ = true;
    auto stub = worker::v1::Worker::NewStub(make_channel_());
    call_ = std::make_unique<Call>(shared_from_this());
    stub_ = std::move(stub);
    call_->Start();
  }

  void CancelCall() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (calling_) call_->Cancel();
  }

  void OnCallDone(const grpc::Status& status) {
    bool grace = false;
    absl::Status why;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      last_failure_ = status.error_message();
      const bool ended = !process_end_.empty();
      if (!greeted_ && !over_ && !ended && status.error_code() == grpc::StatusCode::UNAVAILABLE) {
        calling_ = false;  // before the alarm is set, which may start the next call at once
        SetAlarmLocked(&retry_alarm_, retry_after_, [](Core& core) { core.StartCall(); });
        retry_after_ = std::min(retry_after_ * 2, kLastRetry);
        return;
      }
      grace = process_ != nullptr && !over_ && !ended;
      why = ended ? ProcessReason() : Reason(status);
      over_ = true;
      if (grace) SetAlarmLocked(&retry_alarm_, kEndGrace, [why](Core& core) { core.Lose(why); });
    }
    if (!grace) Lose(why);
    // Last: whoever waits for it may destroy what the event goes to.
    std::lock_guard<std::mutex> lock(mutex_);
    calling_ = false;
    changed_.notify_all();
  }

  // The next three: REQUIRES mutex_ held.
  absl::Status DrainedReason() const {
    return absl::UnavailableError(
        absl::StrCat(options_.name, " was told to stop, and has finished what it had"));
  }
  absl::Status ProcessReason() const {
    if (drained_) return DrainedReason();
    return absl::UnavailableError(absl::StrCat(options_.name, ": its process ", process_end_));
  }
  absl::Status Reason(const grpc::Status& status) const {
    if (drained_) return DrainedReason();
    if (!greeted_) return Annotate(FromRpcStatus(status), options_.name);
    return absl::UnavailableError(
        absl::StrCat(options_.name, ": its control stream ended: ",
                     status.ok() ? "closed by the worker" : status.error_message()));
  }

  void OnLimit() {
    std::string failure;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (greeted_ || over_) return;
      failure = last_failure_.empty() ? "it does not answer" : last_failure_;
    }
    Lose(absl::UnavailableError(absl::StrCat(
        options_.name, " could not be reached within ",
        absl::FormatDuration(options_.connect_limit), ": ", failure,
        ": see whether the worker runs, what its log says, and whether the address is right")));
    CancelCall();
  }

  void OnProcessEnd(const std::string& how) {
    absl::Status why;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      process_end_ = how;
      why = ProcessReason();
      if (calling_ && !over_) {
        SetAlarmLocked(&retry_alarm_, kEndGrace, [](Core& core) { core.OnEndGrace(); });
        return;
      }
    }
    Lose(why);
  }

  // The process has ended, but not its stream: a child of its own may hold that.
  void OnEndGrace() {
    absl::Status why;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      why = ProcessReason();
    }
    Lose(why);
    CancelCall();
  }

  void OnMessage(const ControlResponse& response) {
    switch (response.message_case()) {
      case ControlResponse::kHello: {
        if (response.hello().protocol() != kWorkerProtocol) {
          Refuse(absl::FailedPreconditionError("it speaks another version of the protocol"));
          return;
        }
        std::lock_guard<std::mutex> lock(mutex_);
        greeted_ = true;
        limit_alarm_.reset();
        StartNextWrite();
        return;
      }
      case ControlResponse::kLoaded: {
        absl::StatusOr<StageInfo> info = DecodeStageInfo(response.loaded());
        if (info.ok() && info->address.empty()) info->address = options_.address;
        Pass(std::move(info));
        return;
      }
      case ControlResponse::kProgress:
        Pass(DecodeLoadProgress(response.progress()));
        return;
      case ControlResponse::kEntered:
        Emit(EpochEntered{response.entered().epoch()});
        return;
      case ControlResponse::kResult:
        Pass(DecodeStepResult(response.result()));
        return;
      case ControlResponse::kFailed:
        Emit(EpochFailed{response.failed().epoch(), response.failed().plan(),
                         DecodeError(response.failed().error())});
        return;
      case ControlResponse::kBeat:
        Pass(DecodeBeat(response.beat()));
        return;
      case ControlResponse::kError:
        // The answer to Load. Its code is the file's or the settings'.
        Refuse(DecodeError(response.error()));
        return;
      case ControlResponse::kDrained: {
        std::lock_guard<std::mutex> lock(mutex_);
        drained_ = true;
        return;
      }
      case ControlResponse::MESSAGE_NOT_SET:
        Refuse(absl::InternalError("it sent a message of no kind that is known here"));
        return;
    }
  }

  template <typename T>
  void Pass(absl::StatusOr<T> message) {
    if (message.ok()) {
      Emit(*std::move(message));
    } else {
      Refuse(message.status());
    }
  }

  // Nothing more is wanted of this worker.
  void Refuse(const absl::Status& status) {
    Lose(Annotate(status, options_.name));
    CancelCall();
  }

  void Emit(StageEvent event) {
    std::lock_guard<std::mutex> lock(events_mutex_);
    if (!lost_) events_(std::move(event));
  }

  void Lose(const absl::Status& status) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      over_ = true;
      outbox_.clear();
    }
    std::lock_guard<std::mutex> lock(events_mutex_);
    if (std::exchange(lost_, true)) return;
    events_(StageLost{status});
  }

  // The next two: REQUIRES mutex_ held.
  void StartNextWrite() {
    if (writing_ || !greeted_ || outbox_.empty() || !calling_ || call_->broken()) return;
    request_ = std::move(outbox_.front());
    outbox_.pop_front();
    writing_ = true;
    call_->StartWrite(&request_);
  }
  void SetAlarmLocked(std::unique_ptr<grpc::Alarm>* alarm, absl::Duration after,
                      std::function<void(Core&)> then) {
    *alarm = std::make_unique<grpc::Alarm>();
    (*alarm)->Set(absl::ToChronoTime(absl::Now() + after),
                  [core = weak_from_this(), then = std::move(then)](bool expired) {
                    const std::shared_ptr<Core> self = core.lock();
                    if (expired && self != nullptr) then(*self);
                  });
  }
  void SetAlarm(std::unique_ptr<grpc::Alarm>* alarm, absl::Duration after,
                std::function<void(Core&)> then) {
    std::lock_guard<std::mutex> lock(mutex_);
    SetAlarmLocked(alarm, after, std::move(then));
  }

  const WorkerConnectionOptions options_;
  MakeChannel make_channel_;
  std::unique_ptr<ChildProcess> process_;  // set by Open, before anything runs

  std::mutex events_mutex_;
  const StageProvider::EventCallback events_;  // called under events_mutex_
  bool lost_ = false;                          // guarded by it: there is no other event

  ControlRequest request_;  // belongs to gRPC while writing_

  std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  std::unique_ptr<worker::v1::Worker::Stub> stub_;
  std::unique_ptr<Call> call_;         // of the last try
  bool calling_ = false;               // until gRPC's last word on it
  std::deque<ControlRequest> outbox_;  // written once the worker has answered the hello
  bool writing_ = false;
  bool greeted_ = false;
  bool drained_ = false;
  bool over_ = false;  // no new call, nothing more to send
  std::string last_failure_;
  std::string process_end_;  // empty: it has not ended
  absl::Duration retry_after_ = kFirstRetry;
  std::unique_ptr<grpc::Alarm> limit_alarm_;
  std::unique_ptr<grpc::Alarm> retry_alarm_;
};

WorkerConnection::WorkerConnection(MakeChannel make_channel, WorkerConnectionOptions options,
                                   StageProvider::EventCallback events,
                                   const StartProcess& start_process)
    : core_(
          std::make_shared<Core>(std::move(make_channel), std::move(options), std::move(events))) {
  core_->Open(start_process);
}

WorkerConnection::~WorkerConnection() { core_->Close(); }

void WorkerConnection::Load(const StageOptions& options) {
  ControlRequest request;
  EncodeStageOptions(options, request.mutable_load());
  core_->Send(std::move(request));
}

void WorkerConnection::BeginEpoch(const EpochStart& start) {
  ControlRequest request;
  EncodeEpochStart(start, request.mutable_epoch());
  core_->Send(std::move(request));
}

void WorkerConnection::Submit(const StepPlan& plan) {
  ControlRequest request;
  EncodeStepPlan(plan, request.mutable_plan());
  core_->Send(std::move(request));
}

void WorkerConnection::Kill() { core_->Kill(); }

}  // namespace penstock
