#include "worker/worker_service.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <deque>
#include <utility>

#include "proto/worker_codec.h"

namespace penstock {
namespace {

using worker::v1::ControlRequest;
using worker::v1::ControlResponse;

// Requests of a stream without an answer. The front end has far fewer plans on their way, so more
// is its mistake, and memory that nobody has planned for.
constexpr int64_t kMaxUnanswered = 4096;
// How often loading is told of.
constexpr std::chrono::milliseconds kProgressPeriod{100};
constexpr int64_t kDefaultBeatNs = 100'000'000;
constexpr int64_t kMinBeatNs = 1'000'000;
constexpr int64_t kMaxBeatNs = 60'000'000'000;

// What a beat tells of the process.
void AddProcess(StageBeat* beat) {
  long pages = 0;
  long resident = 0;
  if (FILE* const file = fopen("/proc/self/statm", "re"); file != nullptr) {
    if (fscanf(file, "%ld %ld", &pages, &resident) == 2) {
      beat->resident_bytes = int64_t{resident} * sysconf(_SC_PAGESIZE);
    }
    fclose(file);
  }
  timespec cpu = {};
  if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu) == 0) {
    beat->cpu_ns = int64_t{cpu.tv_sec} * 1'000'000'000 + cpu.tv_nsec;
  }
}

grpc::Status ToRpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.raw_code()), Message(status)};
}

}  // namespace

// One Control stream. It keeps itself alive until gRPC is done with it; the control thread and the
// stage's callbacks may keep it longer.
class WorkerService::ControlStream final
    : public grpc::ServerBidiReactor<ControlRequest, ControlResponse>,
      public std::enable_shared_from_this<ControlStream> {
 public:
  explicit ControlStream(WorkerService& service) : service_(service) {}

  void Begin() {
    self_ = shared_from_this();
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      // A front end that will ask for no more has no use for the answers either.
      End(absl::CancelledError("the front end has ended the stream"));
      return;
    }
    if (!greeted_) {
      if (const absl::Status status = Greet(); !status.ok()) {
        End(status);
        return;
      }
      greeted_ = true;
    } else {
      bool too_many = false;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        too_many = ++waiting_ + unanswered_ > kMaxUnanswered;
      }
      if (too_many) {
        End(absl::ResourceExhaustedError(absl::StrCat(
            "more than ", kMaxUnanswered, " requests without an answer: send fewer plans ahead")));
        return;
      }
      service_.control_thread_->Enqueue(
          [stream = shared_from_this(), request = std::move(request_)] {
            stream->Handle(request);
          });
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (!finished_) StartRead(&request_);
  }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      writing_ = false;
      if (ok) {
        StartNextWrite();
        FinishIfDone();
        return;
      }
    }
    End(absl::CancelledError("the front end is gone"));
  }

  void OnCancel() override { End(absl::CancelledError("the front end is gone")); }

  void OnDone() override {
    End(absl::CancelledError("the stream has ended"));  // if nothing has said so yet
    const auto last = std::move(self_);
  }

  // On any thread.
  int64_t beat_ns() const { return beat_ns_; }
  void Beat() {
    StageBeat beat;
    {
      std::lock_guard<std::mutex> lock(stage_mutex_);
      if (stage_ == nullptr) return;
      beat = stage_->beat();
    }
    AddProcess(&beat);
    std::lock_guard<std::mutex> lock(mutex_);
    // While the front end is slow to read, none: the next one says it better.
    if (!owns_ || ending_ || !outbox_.empty()) return;
    EncodeBeat(beat, outbox_.emplace_back().mutable_beat());
    StartNextWrite();
  }

  // The next two on the control thread.
  void Drain() {
    std::lock_guard<std::mutex> lock(mutex_);
    draining_ = true;
    TellIfDrained();
  }
  void Free() {
    std::unique_ptr<StageHost> stage;
    {
      std::lock_guard<std::mutex> lock(stage_mutex_);
      stage = std::move(stage_);
    }
  }

 private:
  // The first message. Makes this stream the worker's owner.
  absl::Status Greet() {
    if (!request_.has_hello()) {
      return absl::FailedPreconditionError(
          "the first message of a control stream is a hello: use programs of one release");
    }
    PENSTOCK_ASSIGN_OR_RETURN(const WorkerHello hello, DecodeHello(request_.hello()));
    if (hello.protocol != kWorkerProtocol) {
      return absl::FailedPreconditionError(
          absl::StrCat("this worker (", service_.options_.version, ") speaks version ",
                       kWorkerProtocol, " of the protocol and the front end (", hello.version,
                       ") version ", hello.protocol, ": use programs of one release"));
    }
    beat_ns_ =
        std::clamp(hello.beat_ns == 0 ? kDefaultBeatNs : hello.beat_ns, kMinBeatNs, kMaxBeatNs);
    ControlResponse response;
    EncodeHello({kWorkerProtocol, service_.options_.version, getpid(), beat_ns_},
                response.mutable_hello());
    PENSTOCK_RETURN_IF_ERROR(service_.Acquire(shared_from_this()));
    {
      std::lock_guard<std::mutex> lock(stage_mutex_);
      stage_ = service_.make_stage_();
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      owns_ = true;
      if (!ending_) {
        outbox_.push_back(std::move(response));
        StartNextWrite();
        return absl::OkStatus();
      }
    }
    Leave();  // it has ended meanwhile, not knowing that there was something to leave
    return absl::OkStatus();
  }

  // On the control thread, like all that it calls.
  void Handle(const ControlRequest& request) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      --waiting_;
      if (ending_ || draining_) return;
    }
    switch (request.message_case()) {
      case ControlRequest::kLoad:
        Load(request.load());
        return;
      case ControlRequest::kEpoch:
        BeginEpoch(request.epoch());
        return;
      case ControlRequest::kPlan:
        Submit(request.plan());
        return;
      case ControlRequest::kDrain:
        Drain();
        return;
      case ControlRequest::kHello:
      case ControlRequest::MESSAGE_NOT_SET:
        End(absl::InvalidArgumentError(
            "a control request of no kind that is known here: use programs of one release"));
        return;
    }
  }

  void Load(const worker::v1::LoadRequest& request) {
    ControlResponse response;
    absl::StatusOr<StageInfo> info = LoadStage(request);
    if (info.ok()) {
      info->last_epoch = service_.last_epoch_;
      EncodeStageInfo(*info, response.mutable_loaded());
    } else {
      EncodeError(info.status(), response.mutable_error());
    }
    loaded_ = info.ok();
    Send(std::move(response));
  }

  absl::StatusOr<StageInfo> LoadStage(const worker::v1::LoadRequest& request) {
    if (load_tried_) {
      return absl::FailedPreconditionError("a stage loads once: open another control stream");
    }
    load_tried_ = true;
    PENSTOCK_ASSIGN_OR_RETURN(StageOptions options, DecodeStageOptions(request));
    if (!service_.options_.model.empty()) options.model = service_.options_.model;
    if (service_.options_.threads.has_value()) options.threads = *service_.options_.threads;
    if (service_.options_.device.has_value()) options.device = *service_.options_.device;
    if (service_.options_.gemm_table.has_value()) {
      options.gemm_table = *service_.options_.gemm_table;
    }
    auto told = std::chrono::steady_clock::now();
    return stage_->Load(options, [&](const LoadProgress& progress) {
      const auto now = std::chrono::steady_clock::now();
      if (now - told < kProgressPeriod) return;
      told = now;
      std::lock_guard<std::mutex> lock(mutex_);
      if (ending_ || !outbox_.empty()) return;
      EncodeLoadProgress(progress, outbox_.emplace_back().mutable_progress());
      StartNextWrite();
    });
  }

  void BeginEpoch(const worker::v1::EpochStart& request) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      open_epoch_ = 0;  // what the old one still answers is dropped
      unanswered_ = 0;
    }
    last_epoch_ = std::max(last_epoch_, request.epoch());
    const absl::StatusOr<EpochStart> start = DecodeEpochStart(request);
    if (start.ok()) service_.last_epoch_ = std::max(service_.last_epoch_, start->epoch);
    absl::Status status = start.status();
    if (status.ok() && !loaded_) status = absl::FailedPreconditionError("nothing is loaded");
    if (status.ok()) status = stage_->BeginEpoch(*start);
    if (!status.ok()) {
      SendFailed(request.epoch(), 0, status);
      return;
    }
    ControlResponse response;
    response.mutable_entered()->set_epoch(start->epoch);
    std::lock_guard<std::mutex> lock(mutex_);
    open_epoch_ = start->epoch;
    outbox_.push_back(std::move(response));
    StartNextWrite();
  }

  void Submit(const worker::v1::StepPlan& request) {
    const absl::StatusOr<StepPlan> plan = DecodeStepPlan(request);
    bool open = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      // Of an epoch that has failed, or that is over: its end has been told.
      open = request.epoch() == open_epoch_;
      if (!open && request.epoch() <= last_epoch_) return;
      if (open) ++unanswered_;
    }
    if (!open) {
      last_epoch_ = request.epoch();
      SendFailed(request.epoch(), request.number(),
                 absl::FailedPreconditionError(
                     absl::StrCat("epoch ", request.epoch(), " of the plan has not begun")));
      return;
    }
    if (!plan.ok()) {
      Answer(request.epoch(), request.number(), plan.status());
      return;
    }
    stage_->Submit(
        *plan, [this, self = shared_from_this(), epoch = plan->epoch, number = plan->number](
                   const absl::StatusOr<StepResult>& result) { Answer(epoch, number, result); });
  }

  // On any thread.
  void Answer(uint32_t epoch, uint64_t number, const absl::StatusOr<StepResult>& result) {
    ControlResponse response;
    if (result.ok()) {
      EncodeStepResult(*result, response.mutable_result());
    } else {
      worker::v1::EpochFailed* const failed = response.mutable_failed();
      failed->set_epoch(epoch);
      failed->set_plan(number);
      EncodeError(result.status(), failed->mutable_error());
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (epoch != open_epoch_) return;
    if (result.ok()) {
      --unanswered_;
    } else {
      open_epoch_ = 0;
      unanswered_ = 0;
    }
    if (ending_) return;
    outbox_.push_back(std::move(response));
    TellIfDrained();
    StartNextWrite();
  }

  void SendFailed(uint32_t epoch, uint64_t plan, const absl::Status& status) {
    ControlResponse response;
    response.mutable_failed()->set_epoch(epoch);
    response.mutable_failed()->set_plan(plan);
    EncodeError(status, response.mutable_failed()->mutable_error());
    Send(std::move(response));
  }

  void Send(ControlResponse response) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (ending_) return;
    outbox_.push_back(std::move(response));
    StartNextWrite();
  }

  // The end of the stream, for the first reason that comes. The stage stops waiting at once; it is
  // freed behind what the control thread is at. Any thread.
  void End(const absl::Status& reason) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (ending_) {
        FinishIfDone();
        return;
      }
      ending_ = true;
      reason_ = reason;
      outbox_.clear();
      FinishIfDone();
      if (!owns_) return;
    }
    Leave();
  }

  void Leave() {
    {
      std::lock_guard<std::mutex> lock(stage_mutex_);
      if (stage_ != nullptr) stage_->Abandon();  // so nothing keeps the control thread for long
    }
    service_.options_.on_left();
    service_.control_thread_->Enqueue([stream = shared_from_this()] {
      stream->Free();
      stream->service_.Release();
    });
  }

  // The next three: REQUIRES mutex_ held.
  void TellIfDrained() {
    if (!draining_ || unanswered_ > 0 || drained_ || ending_) return;
    drained_ = true;
    outbox_.emplace_back().mutable_drained();
    StartNextWrite();
  }
  void StartNextWrite() {
    if (writing_ || outbox_.empty() || ending_) return;
    response_ = std::move(outbox_.front());
    outbox_.pop_front();
    writing_ = true;
    StartWrite(&response_);
  }
  void FinishIfDone() {
    if (finished_ || writing_) return;
    if (ending_) {
      finished_ = true;
      Finish(ToRpc(reason_));
    } else if (drained_ && outbox_.empty()) {
      // The front end answers by ending its side, and that ends this stream.
      finished_ = true;
      Finish(grpc::Status::OK);
    }
  }

  WorkerService& service_;
  std::shared_ptr<ControlStream> self_;
  int64_t beat_ns_ = kDefaultBeatNs;  // before this stream owns the worker

  bool greeted_ = false;  // of the reads, which come one after the other
  // The control thread's own.
  bool load_tried_ = false;
  bool loaded_ = false;
  uint32_t last_epoch_ = 0;  // the highest that this stream has named

  ControlRequest request_;    // belongs to gRPC while a read is in flight
  ControlResponse response_;  // belongs to gRPC while writing_

  // Only the control thread lets go of the stage, so it may use it without the lock.
  std::mutex stage_mutex_;
  std::unique_ptr<StageHost> stage_;

  std::mutex mutex_;
  // All below is guarded by mutex_.
  std::deque<ControlResponse> outbox_;
  int64_t waiting_ = 0;      // requests that the control thread has not come to
  int64_t unanswered_ = 0;   // plans that the stage has, of the open epoch
  uint32_t open_epoch_ = 0;  // 0: none
  bool owns_ = false;
  bool writing_ = false;
  bool draining_ = false;
  bool drained_ = false;   // the last message is in the outbox, or further
  bool ending_ = false;    // nothing more is said
  bool finished_ = false;  // and gRPC knows
  absl::Status reason_;
};

WorkerService::WorkerService(MakeStage make_stage, WorkerServiceOptions options)
    : make_stage_(std::move(make_stage)),
      options_(std::move(options)),
      control_thread_(std::make_unique<TaskThread>()) {
  beat_thread_ = std::thread([this] { RunBeats(); });
}

WorkerService::~WorkerService() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  beat_thread_.join();
  control_thread_.reset();
  // Only if its stream's end was not handled any more: the stage's callbacks keep the stream.
  if (owner_ != nullptr) owner_->Free();
}

grpc::ServerBidiReactor<ControlRequest, ControlResponse>* WorkerService::Control(
    grpc::CallbackServerContext*) {
  const auto stream = std::make_shared<ControlStream>(*this);
  stream->Begin();
  return stream.get();
}

bool WorkerService::Drain() {
  std::lock_guard<std::mutex> lock(mutex_);
  draining_ = true;
  if (owner_ == nullptr) return false;
  control_thread_->Enqueue([stream = owner_] { stream->Drain(); });
  return true;
}

absl::Status WorkerService::Acquire(std::shared_ptr<ControlStream> stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (draining_) return absl::UnavailableError("this worker is about to end: use another one");
  if (owner_ != nullptr) {
    return absl::UnavailableError(
        "another front end has this worker, or has just left it: stop that one, or give each "
        "front end workers of its own");
  }
  owner_ = std::move(stream);
  changed_.notify_all();
  options_.on_owned();
  return absl::OkStatus();
}

void WorkerService::Release() {
  std::shared_ptr<ControlStream> last;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    last = std::move(owner_);
  }
  options_.on_freed();
}

void WorkerService::RunBeats() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_) {
    if (owner_ == nullptr) {
      changed_.wait(lock);
      continue;
    }
    const std::shared_ptr<ControlStream> owner = owner_;
    changed_.wait_for(lock, std::chrono::nanoseconds(owner->beat_ns()),
                      [&] { return stop_ || owner_ != owner; });
    if (stop_ || owner_ != owner) continue;
    lock.unlock();
    owner->Beat();
    lock.lock();
  }
}

}  // namespace penstock
