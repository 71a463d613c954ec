#include "worker/transport/grpc_transfer_service.h"

#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/worker_protocol.h"

namespace penstock {
namespace {

using worker::v1::TransferRequest;
using worker::v1::TransferResponse;

grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), Message(status)};
}

// One Push call. It keeps itself alive until gRPC is done with it; the queue it feeds may keep it
// longer.
class PushStream final : public grpc::ServerBidiReactor<TransferRequest, TransferResponse>,
                         public LaneSender,
                         public std::enable_shared_from_this<PushStream> {
 public:
  explicit PushStream(std::shared_ptr<LaneTable> lanes) : lanes_(std::move(lanes)) {}

  void Begin() {
    self_ = shared_from_this();
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      End(absl::UnavailableError("the sending stage has closed its end"));
      return;
    }
    absl::Status status;
    if (!opening_) {
      opening_ = true;
      status = Open();
      // Read on once the lane is open: OnOpened.
      if (status.ok()) return;
    } else {
      status = Take();
    }
    if (!status.ok()) {
      End(status);
      return;
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (!ended_.has_value()) StartRead(&request_);
  }

  void OnWriteDone(bool) override {
    std::lock_guard<std::mutex> lock(mutex_);
    writing_ = false;
    StartNextWrite();
    FinishIfEnded();
  }

  void OnCancel() override {
    End(absl::UnavailableError(
        "the connection to the sending stage has broken: it has ended, or its host is gone"));
  }

  void OnDone() override { const auto last = std::move(self_); }

  void OnOpened(const std::shared_ptr<ReceiveQueue>& queue) override {
    absl::Status ended;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (ended_.has_value()) {
        ended = *ended_;
      } else {
        queue_ = queue;
        tell_opened_ = true;
        credits_ = queue->window();
        StartNextWrite();
        StartRead(&request_);
      }
    }
    if (!ended.ok()) queue->SenderGone(ended);
  }
  void OnRefused(const absl::Status& why) override { End(why); }
  void OnRoom() override {
    std::lock_guard<std::mutex> lock(mutex_);
    ++credits_;
    StartNextWrite();
  }
  void OnClosed() override {
    End(absl::UnavailableError("the receiving stage has closed its end"));
  }

 private:
  absl::Status Open() {
    if (!request_.has_open()) {
      return absl::FailedPreconditionError(
          "the first message of a transfer must open a lane: the sender is of another version");
    }
    const worker::v1::TransferOpen& open = request_.open();
    if (open.protocol() != kWorkerProtocol) {
      return absl::FailedPreconditionError(
          absl::StrCat("the sending stage speaks protocol ", open.protocol(),
                       ", the receiving one ", kWorkerProtocol, ": run one release everywhere"));
    }
    LaneKind kind = LaneKind::kRows;
    if (open.lane() == worker::v1::LANE_TOKENS) {
      kind = LaneKind::kTokens;
    } else if (open.lane() != worker::v1::LANE_ROWS) {
      return absl::InvalidArgumentError(absl::StrCat("no lane is of kind ", open.lane()));
    }
    lanes_->Claim(kind, open.epoch(), shared_from_this());
    return absl::OkStatus();
  }

  absl::Status Take() {
    if (!request_.has_chunk()) {
      return absl::InternalError("an open lane takes chunks only: the sender is broken");
    }
    std::shared_ptr<ReceiveQueue> queue;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      queue = queue_;
    }
    if (queue == nullptr) return absl::OkStatus();  // the call has just ended
    worker::v1::TransferChunk& chunk = *request_.mutable_chunk();
    return queue->Add(chunk.plan(), chunk.total_bytes(), chunk.offset(),
                      std::move(*chunk.mutable_data()));
  }

  // The call is over: tells both sides, once.
  void End(const absl::Status& why) {
    std::shared_ptr<ReceiveQueue> queue;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (ended_.has_value()) return;
      ended_ = why;
      queue = std::move(queue_);
      FinishIfEnded();
    }
    lanes_->Unclaim(shared_from_this());
    if (queue != nullptr) queue->SenderGone(why);
  }

  // The next two: REQUIRES mutex_ held.
  void StartNextWrite() {
    if (writing_ || ended_.has_value() || (!tell_opened_ && credits_ == 0)) return;
    if (tell_opened_) {
      response_.mutable_opened();
      tell_opened_ = false;
    } else {
      response_.set_credits(std::exchange(credits_, 0));
    }
    writing_ = true;
    StartWrite(&response_);
  }
  void FinishIfEnded() {
    if (!ended_.has_value() || writing_ || finished_) return;
    finished_ = true;
    Finish(ToGrpc(*ended_));
  }

  const std::shared_ptr<LaneTable> lanes_;
  std::shared_ptr<PushStream> self_;
  TransferRequest request_;    // belongs to gRPC while it reads
  TransferResponse response_;  // belongs to gRPC while writing_
  bool opening_ = false;       // of the reads

  std::mutex mutex_;
  // All below is guarded by mutex_.
  std::shared_ptr<ReceiveQueue> queue_;
  std::optional<absl::Status> ended_;  // never OK
  bool tell_opened_ = false;
  int64_t credits_ = 0;  // not yet told
  bool writing_ = false;
  bool finished_ = false;
};

}  // namespace

grpc::ServerBidiReactor<TransferRequest, TransferResponse>* GrpcTransferService::Push(
    grpc::CallbackServerContext*) {
  const auto stream = std::make_shared<PushStream>(lanes_);
  stream->Begin();
  return stream.get();
}

}  // namespace penstock
