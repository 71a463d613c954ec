#include "worker/pipeline_stage.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "core/tensor/device_mail.h"
#include "worker/backends.h"
#include "worker/transport/nccl_transport.h"

namespace penstock {
namespace {

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// A limit of a plan or of connecting; 0: none.
absl::Duration Limit(int64_t ns) {
  return ns == 0 ? absl::InfiniteDuration() : absl::Nanoseconds(ns);
}

absl::Status Cancelled() {
  return absl::CancelledError("the epoch has ended: a new one was begun, or the stage is given up");
}

}  // namespace

// A plan on its way through the stage.
struct PipelineStage::Job {
  StepPlan plan;
  ResultCallback callback;
  int64_t num_tokens = 0;
  int64_t num_samples = 0;
  StageTimes times;
  int64_t sending_since = 0;  // ns
  StepResult result;

  absl::Duration limit() const { return Limit(plan.limit_ns); }
};

PipelineStage::PipelineStage(std::unique_ptr<StageExecutor> executor, Transport* transport)
    : transport_(transport), executor_(std::move(executor)), doing_since_(NowNs()) {}

PipelineStage::~PipelineStage() {
  Abandon();
  EndEpoch();
}

absl::StatusOr<StageInfo> PipelineStage::Load(const StageOptions& options,
                                              const ProgressCallback& progress) {
  if (options.num_stages > 1 && transport_ == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "this worker is to be one of ", options.num_stages,
        " stages, but has no transport to the others: start penstock-worker processes"));
  }
  // Before the executor takes what is left of the device.
  if (options.num_stages > 1 && options.mailbox_bytes > 0) {
    PENSTOCK_RETURN_IF_ERROR(MakeMailbox(options));
  } else if (options.num_stages > 1 && options.nccl) {
    PENSTOCK_RETURN_IF_ERROR(Annotate(MakeNccl(options), "--transport nccl"));
  }
  PENSTOCK_ASSIGN_OR_RETURN(StageInfo info, executor_->Load(options, progress));
  if (transport_ != nullptr) info.address = transport_->address();
  options_ = options;
  limits_ = {options.max_step_tokens, options.max_sequences, info.config.context_length,
             info.num_blocks, info.config.vocab_size};
  loaded_ = true;
  return info;
}

absl::Status PipelineStage::MakeMailbox(const StageOptions& options) {
  if (transport_->address().empty()) {
    return absl::FailedPreconditionError(
        "this worker does not know its own address, as rows by peer memory need: start it with "
        "--advertise, or use --transport grpc");
  }
  PENSTOCK_ASSIGN_OR_RETURN(std::unique_ptr<PeerMemory> memory, MakePeerMemory(options));
  PeerTransportOptions peer;
  peer.by_device = options.device_mail;
  if (options.stage > 0) {
    peer.mailbox_bytes = options.mailbox_bytes;
  } else if (peer.by_device) {
    peer.kind = LaneKind::kTokens;
    peer.mailbox_bytes = MailLayout::TokenBytes(options.max_sequences);
  }
  PENSTOCK_ASSIGN_OR_RETURN(peer_transport_,
                            MakePeerTransport(*transport_, std::move(memory), peer));
  transport_ = peer_transport_.get();
  return absl::OkStatus();
}

absl::Status PipelineStage::MakeNccl(const StageOptions& options) {
  PENSTOCK_RETURN_IF_ERROR(CheckNcclDevices({options.device}));
  NcclTransportOptions nccl;
  PENSTOCK_ASSIGN_OR_RETURN(nccl.library, NcclLibrary::Open());
  PENSTOCK_ASSIGN_OR_RETURN(nccl.in, MakeLinkStream(options.device, kNcclPieceBytes));
  PENSTOCK_ASSIGN_OR_RETURN(nccl.out, MakeLinkStream(options.device, kNcclPieceBytes));
  nccl_transport_ = MakeNcclTransport(*transport_, nccl);
  transport_ = nccl_transport_.get();
  return absl::OkStatus();
}

absl::Status PipelineStage::CheckStart(const EpochStart& start) const {
  const auto refuse = [&start](std::string_view what) {
    return absl::FailedPreconditionError(
        absl::StrCat("the start of epoch ", start.epoch, " does not fit this stage: ", Abs(what)));
  };
  if (!loaded_) return refuse("it has loaded no model");
  if (start.epoch <= epoch_) return refuse(absl::StrCat("it has seen epoch ", epoch_));
  if (start.first_plan == 0) return refuse("plans are numbered from 1");
  if (start.next.empty() != is_last()) {
    return refuse(is_last() ? "the last stage sends its rows to no other"
                            : "no stage is named that takes its rows");
  }
  const bool sends_tokens = is_last() && !is_first();
  if (start.first.empty() == sends_tokens) {
    return refuse(sends_tokens ? "no stage is named that takes its tokens"
                               : "only the last of several stages sends tokens");
  }
  return absl::OkStatus();
}

absl::Status PipelineStage::BeginEpoch(const EpochStart& start) {
  EndEpoch();
  PENSTOCK_RETURN_IF_ERROR(CheckStart(start));
  if (abandoned()) return Cancelled();
  epoch_ = start.epoch;
  PENSTOCK_RETURN_IF_ERROR(executor_->BeginEpoch(start));
  if (absl::Status connected = Connect(start); !connected.ok()) {
    EndEpoch();
    return connected;
  }
  limits_.num_blocks = start.num_blocks;
  order_ = PlanOrder(start.epoch, start.first_plan, options_.plans_ahead);
  transfers_.clear();
  {
    std::lock_guard<std::mutex> lock(beat_mutex_);
    beat_ = StageBeat();
    beat_.epoch = start.epoch;
    beat_.voids = executor_->voids();
    beat_.device_memory = executor_->device_memory();
    doing_since_ = NowNs();
  }
  last_end_ns_ = 0;
  failed_ = false;
  std::lock_guard<std::mutex> lock(mutex_);
  if (abandoned_) return Cancelled();
  cancelled_ = false;
  taking_plans_ = true;
  return absl::OkStatus();
}

bool PipelineStage::abandoned() {
  std::lock_guard<std::mutex> lock(mutex_);
  return abandoned_;
}

// Receiving ends first: a neighbour that connects waits for nothing but this stage's getting here.
absl::Status PipelineStage::Connect(const EpochStart& start) {
  if (by_mail()) return ConnectMail(start);
  Lanes lanes;
  if (!is_first()) lanes.rows_in = transport_->Open(LaneKind::kRows, start.epoch);
  if (is_first() && !is_last()) {
    lanes.tokens_in = transport_->Open(LaneKind::kTokens, start.epoch);
  }
  const absl::Duration limit = Limit(start.connect_ns);
  if (!is_last()) {
    PENSTOCK_ASSIGN_OR_RETURN(lanes.rows_out,
                              transport_->Connect(start.next, LaneKind::kRows, start.epoch, limit));
  } else if (!is_first()) {
    PENSTOCK_ASSIGN_OR_RETURN(
        lanes.tokens_out, transport_->Connect(start.first, LaneKind::kTokens, start.epoch, limit));
  }
  std::lock_guard<std::mutex> lock(mutex_);
  lanes_ = std::move(lanes);
  return absl::OkStatus();
}

absl::Status PipelineStage::ConnectMail(const EpochStart& start) {
  const auto when_gone = [this] { executor_->CancelMail(); };
  Lanes lanes;
  lanes.mail_in = peer_transport_->OpenMail(start.epoch, when_gone);
  PENSTOCK_ASSIGN_OR_RETURN(lanes.mail_out, peer_transport_->ConnectMail(
                                                is_last() ? start.first : start.next,
                                                is_last() ? LaneKind::kTokens : LaneKind::kRows,
                                                start.epoch, Limit(start.connect_ns), when_gone));
  std::lock_guard<std::mutex> lock(mutex_);
  lanes_ = std::move(lanes);
  return absl::OkStatus();
}

void PipelineStage::EndEpoch() {
  taking_plans_ = false;
  CancelLanes();
  stream_.Enqueue([this] { FinishBegun(); });
  stream_.Fence();
  Lanes old;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    old = std::move(lanes_);
    lanes_ = Lanes();
  }
  stream_.Reset();
}

// From here on nothing of the epoch waits, computes or is answered, but for what runs right now.
void PipelineStage::CancelLanes() {
  std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
  stream_.Fail(Cancelled());
  if (lanes_.rows_in) lanes_.rows_in->Cancel();
  if (lanes_.tokens_in) lanes_.tokens_in->Cancel();
  if (lanes_.rows_out) lanes_.rows_out->Cancel();
  if (lanes_.tokens_out) lanes_.tokens_out->Cancel();
  if (lanes_.mail_out) lanes_.mail_out->Cancel();
  if (lanes_.mail_in) executor_->CancelMail();
}

void PipelineStage::Abandon() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    abandoned_ = true;
  }
  CancelLanes();
}

void PipelineStage::Submit(const StepPlan& plan, ResultCallback callback) {
  if (!taking_plans_) return;
  const auto job = std::make_shared<Job>();
  job->plan = plan;
  job->callback = std::move(callback);
  job->num_tokens = plan.num_tokens();
  job->num_samples = std::count_if(plan.rows.begin(), plan.rows.end(),
                                   [](const PlanRow& row) { return row.sample; });
  {
    std::lock_guard<std::mutex> lock(beat_mutex_);
    ++beat_.queued;
  }
  absl::Status fits = order_.Take(plan);
  if (fits.ok()) fits = CheckPlan(plan, limits_);
  taking_plans_ = fits.ok();
  if (fits.ok() && executor_->runs_ahead()) {
    ++waiting_;
    stream_.Enqueue([this, job] { Advance(job); });
    return;
  }
  stream_.Enqueue([this, job] {
    FinishBegun();
    Start(*job);
  });
  if (fits.ok() && by_mail()) {
    stream_.Enqueue([this, job] { Compute(*job); });
  } else if (fits.ok()) {
    ReceiveTokens(job);
    ReceiveRows(job);
    stream_.Enqueue([this, job] { Compute(*job); });
    SendOutput(job);
  } else {
    stream_.Enqueue([this, fits] { stream_.Fail(fits); });
  }
  stream_.Enqueue([this, job] { Finish(*job); });
}

// Tokens are taken in order, up to the last that this plan feeds. Those that every plan from now on
// is too late to feed are taken too: their plans have been answered, or this one would not be here.
void PipelineStage::ReceiveTokens(const std::shared_ptr<Job>& job) {
  if (!is_first() || is_last()) return;
  const uint64_t number = job->plan.number;
  const auto ahead = static_cast<uint64_t>(options_.plans_ahead);
  uint64_t last = number > ahead ? number - ahead : 0;
  for (const PlanRow& row : job->plan.rows) last = std::max(last, row.token_from);
  ReceiveLane& lane = *lanes_.tokens_in;
  while (!transfers_.empty() && transfers_.front().plan <= last) {
    const Transfer transfer = transfers_.front();
    transfers_.pop_front();
    lane.Receive(stream_, executor_->TokenRows(transfer.samples), transfer.plan, job->limit());
    stream_.Enqueue([this, job, transfer, &lane] {
      job->times.wait_input_ns += lane.waited_ns();
      if (!stream_.status().ok()) return;
      stream_.Fail(executor_->TakeTokens(job->plan.epoch, transfer.plan, transfer.samples));
    });
  }
  if (job->num_samples > 0) transfers_.push_back({number, job->num_samples});
}

void PipelineStage::ReceiveRows(const std::shared_ptr<Job>& job) {
  if (is_first()) return;
  ReceiveLane& lane = *lanes_.rows_in;
  lane.Receive(stream_, executor_->Rows(job->num_tokens), job->plan.number, job->limit());
  stream_.Enqueue([job, &lane] { job->times.wait_input_ns += lane.waited_ns(); });
}

void PipelineStage::SendOutput(const std::shared_ptr<Job>& job) {
  if (!is_last()) {
    lanes_.rows_out->Send(stream_, executor_->Rows(job->num_tokens), job->plan.number,
                          job->limit());
  } else if (!is_first() && job->num_samples > 0) {
    lanes_.tokens_out->Send(stream_, executor_->TokenRows(job->num_samples), job->plan.number,
                            job->limit());
  }
}

void PipelineStage::Start(Job& job) {
  if (last_end_ns_ != 0) job.times.wait_plan_ns = NowNs() - last_end_ns_;
  std::lock_guard<std::mutex> lock(beat_mutex_);
  --beat_.queued;
  beat_.current = job.plan.number;
  // By mail it takes room for its output first.
  beat_.doing = by_mail() ? StageBeat::Doing::kSends : StageBeat::Doing::kWaitsForInput;
  doing_since_ = NowNs();
}

void PipelineStage::Compute(Job& job) {
  if (!stream_.status().ok()) return;
  if (!by_mail()) SetDoing(StageBeat::Doing::kComputes);
  job.times.start_ns = NowNs();
  absl::StatusOr<StepResult> result = by_mail() ? ExecuteByMail(job) : executor_->Execute(job.plan);
  job.sending_since = NowNs();
  job.times.compute_ns = job.sending_since - job.times.start_ns;
  if (by_mail() && result.ok()) {
    job.times.start_ns = result->times.start_ns;
    job.times.compute_ns = result->times.compute_ns;
    job.times.wait_input_ns = result->times.wait_input_ns;
  }
  SetDoing(StageBeat::Doing::kSends);
  if (result.ok()) {
    job.result = *std::move(result);
  } else {
    stream_.Fail(result.status());
  }
}

// A stage alone on its device: the plan is begun while the one before it runs, so that the device
// goes from one to the next; then who is done first is waited for, it or the next plan.
void PipelineStage::Advance(const std::shared_ptr<Job>& job) {
  --waiting_;
  {
    std::lock_guard<std::mutex> lock(beat_mutex_);
    --beat_.queued;
  }
  if (begun_ != nullptr && stream_.status().ok() && !executor_->CanBegin(job->plan)) FinishBegun();
  if (!stream_.status().ok()) {
    FinishBegun();
    return Finish(*job);
  }
  if (begun_ == nullptr) {
    if (last_end_ns_ != 0) job->times.wait_plan_ns = NowNs() - last_end_ns_;
    SetCurrent(*job);
  }
  const absl::Status begun = executor_->Begin(job->plan);
  FinishBegun();
  if (!begun.ok()) {
    stream_.Fail(begun);
    return Finish(*job);
  }
  SetCurrent(*job);
  begun_ = job;
  while (waiting_ == 0 && !executor_->IsDone()) std::this_thread::yield();
  if (executor_->IsDone()) FinishBegun();
}

void PipelineStage::FinishBegun() {
  if (begun_ == nullptr) return;
  const std::shared_ptr<Job> job = std::exchange(begun_, nullptr);
  absl::StatusOr<StepResult> result = executor_->Finish();
  job->sending_since = NowNs();
  if (result.ok()) {
    job->times.start_ns = result->times.start_ns;
    job->times.compute_ns = result->times.compute_ns;
    job->result = *std::move(result);
  } else {
    stream_.Fail(result.status());
  }
  Finish(*job);
}

// With mail: the place where the output goes is this stage's until the kernels are done.
absl::StatusOr<StepResult> PipelineStage::ExecuteByMail(const Job& job) {
  MailSender& out = *lanes_.mail_out;
  const int64_t bytes = is_last() ? 0 : executor_->Rows(job.num_tokens).bytes();
  PENSTOCK_ASSIGN_OR_RETURN(const MailSender::Place place, out.Begin(bytes, job.limit()));
  executor_->SetMail(
      {lanes_.mail_in->mailbox(), lanes_.mail_in->mailbox_bytes(), place.mailbox, place.offset});
  const auto set_enqueued = [this](int64_t at) {
    std::lock_guard<std::mutex> lock(beat_mutex_);
    enqueued_at_ = at;
  };
  set_enqueued(NowNs());
  absl::StatusOr<StepResult> result = executor_->Execute(job.plan);
  set_enqueued(0);
  out.End();
  if (result.ok() && !is_first()) lanes_.mail_in->Took();
  if (!absl::IsCancelled(result.status())) return result;
  // A neighbour that is gone ends the wait.
  PENSTOCK_RETURN_IF_ERROR(lanes_.mail_in->status());
  PENSTOCK_RETURN_IF_ERROR(out.status());
  return result;
}

void PipelineStage::Finish(Job& job) {
  const absl::Status status = stream_.status();
  const int64_t now = NowNs();
  job.times.send_ns = now - job.sending_since;
  last_end_ns_ = now;
  {
    std::lock_guard<std::mutex> lock(beat_mutex_);
    if (status.ok()) beat_.done = job.plan.number;
    beat_.current = 0;
    beat_.doing = StageBeat::Doing::kIdle;
    beat_.voids = executor_->voids();
    beat_.device_memory = executor_->device_memory();
    doing_since_ = now;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (cancelled_) return;
  }
  if (status.ok()) {
    job.result.times = job.times;
    job.callback(std::move(job.result));
  } else if (!std::exchange(failed_, true)) {
    job.callback(status);
  }
}

void PipelineStage::SetCurrent(const Job& job) {
  std::lock_guard<std::mutex> lock(beat_mutex_);
  if (beat_.current == job.plan.number) return;
  beat_.current = job.plan.number;
  beat_.doing = StageBeat::Doing::kComputes;
  doing_since_ = NowNs();
}

void PipelineStage::SetDoing(StageBeat::Doing doing) {
  std::lock_guard<std::mutex> lock(beat_mutex_);
  beat_.doing = doing;
  doing_since_ = NowNs();
}

StageBeat PipelineStage::beat() const {
  std::lock_guard<std::mutex> lock(beat_mutex_);
  if (enqueued_at_ != 0 && executor_->waits_for_mail()) {
    beat_.doing = StageBeat::Doing::kWaitsForInput;
    doing_since_ = enqueued_at_;
  } else if (enqueued_at_ != 0 && beat_.doing != StageBeat::Doing::kComputes) {
    beat_.doing = StageBeat::Doing::kComputes;
    doing_since_ = NowNs();
  }
  StageBeat beat = beat_;
  beat.doing_ns = NowNs() - doing_since_;
  return beat;
}

}  // namespace penstock
