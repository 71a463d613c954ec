#include "worker/transport/grpc_transport.h"

#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "proto/worker_protocol.h"
#include "worker/transport/cpu_lanes.h"
#include "worker/transport/deadline.h"
#include "worker/transport/grpc_chunk.h"
#include "worker/transport/send_gate.h"

namespace penstock {
namespace {

using worker::v1::TransferRequest;
using worker::v1::TransferResponse;

constexpr char kPush[] = "/penstock.worker.v1.Transfer/Push";
// HTTP/2's own frames are 16 KB, and a stream may run 64 KB ahead: small beside a step's rows.
constexpr int kFrameBytes = 1 << 20;
constexpr int kLookaheadBytes = 8 << 20;

grpc::ChannelArguments MakeChannelArguments(const GrpcTransportOptions& options) {
  grpc::ChannelArguments arguments;
  // A connection of its own for each lane: nothing of a dead peer, its backoff least of all, may
  // reach the one to its successor.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kLookaheadBytes);
  if (options.ping_period > absl::ZeroDuration()) {
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS,
                     static_cast<int>(absl::ToInt64Milliseconds(options.ping_period)));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                     static_cast<int>(absl::ToInt64Milliseconds(options.ping_timeout)));
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // no limit
  }
  return arguments;
}

// What a call's end means for its lane; never OK.
absl::Status FromGrpc(const grpc::Status& status) {
  const std::string message = status.ok() ? "the receiving stage has closed its end"
                                          : absl::CHexEscape(status.error_message());
  switch (status.error_code()) {
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::ALREADY_EXISTS:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::UNAUTHENTICATED:
      return {static_cast<absl::StatusCode>(status.error_code()), message};
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::FailedPreconditionError(
          absl::StrCat("it takes no transfers (", message, "): run one release everywhere"));
    default:
      return absl::UnavailableError(message);
  }
}

// One Push call: a lane's sending end. REQUIRES: closed, once begun, before it is destroyed. gRPC's
// threads must not hold it: with it goes the channel, and the last channel of a process joins them.
class PushCall final : public SendEnd,
                       public grpc::ClientBidiReactor<grpc::ByteBuffer, TransferResponse>,
                       public std::enable_shared_from_this<PushCall> {
 public:
  PushCall(std::string address, std::shared_ptr<grpc::Channel> channel, int64_t chunk_bytes)
      : address_(std::move(address)), channel_(std::move(channel)), chunk_bytes_(chunk_bytes) {}

  void Begin(LaneKind kind, uint32_t epoch) {
    TransferRequest request;
    request.mutable_open()->set_protocol(kWorkerProtocol);
    request.mutable_open()->set_lane(kind == LaneKind::kRows ? worker::v1::LANE_ROWS
                                                             : worker::v1::LANE_TOKENS);
    request.mutable_open()->set_epoch(epoch);
    const grpc::Slice bytes(request.SerializeAsString());
    outgoing_ = grpc::ByteBuffer(&bytes, 1);
    writing_ = true;

    grpc::TemplatedGenericStub<grpc::ByteBuffer, TransferResponse> stub(channel_);
    stub.PrepareBidiStreamingCall(&context_, kPush, grpc::StubOptions(), this);
    AddHold();  // writes come from the stream's thread
    StartRead(&response_);
    StartWrite(&outgoing_);
    StartCall();
  }

  // OK, or why the lane is not open.
  absl::Status WaitOpened(const Deadline& deadline) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!deadline.Wait(changed_, lock, [this] { return opened_ || !over_.ok(); })) {
      const std::string limit = absl::FormatDuration(deadline.limit());
      if (channel_->GetState(false) != GRPC_CHANNEL_READY) {
        return absl::UnavailableError(
            absl::StrCat(address_, " cannot be reached for ", limit,
                         ": see that its worker runs, and that no firewall is between"));
      }
      return absl::DeadlineExceededError(absl::StrCat(address_, ": it has not opened its end for ",
                                                      limit, ": it is not in this epoch yet"));
    }
    return over_;
  }

  absl::Status Send(std::span<const std::byte> bytes, uint64_t plan,
                    const Deadline& deadline) override {
    PENSTOCK_RETURN_IF_ERROR(gate_.Pass(deadline));
    int64_t offset = 0;
    do {
      const int64_t count = std::min(chunk_bytes_, std::ssize(bytes) - offset);
      Write(EncodeChunk(plan, std::ssize(bytes), offset,
                        bytes.subspan(static_cast<size_t>(offset), static_cast<size_t>(count))));
      offset += count;
    } while (offset < std::ssize(bytes));
    return absl::OkStatus();
  }

  absl::Status status() const override { return gate_.closed(); }
  void Cancel() override { gate_.Close(absl::CancelledError("the lane was cancelled")); }

  // A cancelled call ends here and now, unless the socket is full and the peer, stopped, does not
  // empty it: gRPC gives up a write that it has begun only with the connection. That is when the
  // peer is killed, or a ping stays without an answer; nobody waits for it here.
  void Close() override {
    context_.TryCancel();
    std::unique_lock<std::mutex> lock(mutex_);
    StopWriting();
    if (WaitOver(lock, Deadline(absl::Milliseconds(100)))) return;
    std::thread([call = shared_from_this()] {
      std::unique_lock<std::mutex> lock(call->mutex_);
      call->WaitOver(lock, Deadline(absl::InfiniteDuration()));
    }).detach();
  }

  void OnReadDone(bool ok) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!ok) {
      StopWriting();  // OnDone says why
      return;
    }
    if (response_.has_opened()) {
      opened_ = true;
      changed_.notify_one();
    } else {
      gate_.Add(std::max(int64_t{0}, response_.credits()));
    }
    StartRead(&response_);
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard<std::mutex> lock(mutex_);
    writing_ = false;
    if (ok) StartNextWrite();
  }

  void OnDone(const grpc::Status& status) override {
    const absl::Status why = Annotate(FromGrpc(status), address_);
    gate_.Close(why);
    // The last that gRPC does here: who waits goes on once the lock is free.
    std::lock_guard<std::mutex> lock(mutex_);
    over_ = why;
    changed_.notify_one();
  }

 private:
  void Write(grpc::ByteBuffer message) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!may_write_) return;  // the gate will tell the next transfer
    outbox_.push_back(std::move(message));
    StartNextWrite();
  }

  // The next three: REQUIRES mutex_ held.
  bool WaitOver(std::unique_lock<std::mutex>& lock, const Deadline& deadline) {
    return deadline.Wait(changed_, lock, [this] { return !over_.ok(); });
  }
  void StartNextWrite() {
    if (writing_ || outbox_.empty() || !may_write_) return;
    outgoing_.Swap(&outbox_.front());
    outbox_.pop_front();
    writing_ = true;
    StartWrite(&outgoing_);
  }
  void StopWriting() {
    if (!may_write_) return;
    may_write_ = false;
    outbox_.clear();
    RemoveHold();
  }

  const std::string address_;
  const std::shared_ptr<grpc::Channel> channel_;
  const int64_t chunk_bytes_;
  grpc::ClientContext context_;
  SendGate gate_;
  TransferResponse response_;  // belongs to gRPC while it reads
  grpc::ByteBuffer outgoing_;  // belongs to gRPC while writing_

  std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  std::deque<grpc::ByteBuffer> outbox_;  // of `window` transfers at most: the gate sees to it
  bool writing_ = false;
  bool may_write_ = true;  // and so the call is held
  bool opened_ = false;
  absl::Status over_;  // not OK: gRPC is done with the call
};

class GrpcTransport final : public Transport {
 public:
  GrpcTransport(std::shared_ptr<LaneTable> lanes, std::string address, ChannelFactory make_channel,
                const GrpcTransportOptions& options)
      : lanes_(std::move(lanes)),
        address_(std::move(address)),
        make_channel_(std::move(make_channel)),
        options_(options) {
    PENSTOCK_CHECK_GT(options.chunk_bytes, 0);
    PENSTOCK_CHECK_LT(options.chunk_bytes, int64_t{1} << 31);
  }

  std::string address() const override { return address_; }

  std::unique_ptr<ReceiveLane> Open(LaneKind kind, uint32_t epoch) override {
    return MakeCpuReceiveLane(lanes_, kind, epoch);
  }

  absl::StatusOr<std::unique_ptr<SendLane>> Connect(const std::string& address, LaneKind kind,
                                                    uint32_t epoch, absl::Duration limit) override {
    const Deadline deadline(limit);
    const auto call = std::make_shared<PushCall>(
        address, make_channel_(address, MakeChannelArguments(options_)), options_.chunk_bytes);
    call->Begin(kind, epoch);
    if (absl::Status status = call->WaitOpened(deadline); !status.ok()) {
      call->Close();
      return status;
    }
    return MakeCpuSendLane(call, options_.transport);
  }

 private:
  const std::shared_ptr<LaneTable> lanes_;
  const std::string address_;
  const ChannelFactory make_channel_;
  const GrpcTransportOptions options_;
};

}  // namespace

std::unique_ptr<Transport> MakeGrpcTransport(const GrpcTransferService& service,
                                             std::string address, ChannelFactory make_channel,
                                             const GrpcTransportOptions& options) {
  return std::make_unique<GrpcTransport>(service.lanes(), std::move(address),
                                         std::move(make_channel), options);
}

void ConfigureTransferServer(const GrpcTransportOptions& options, grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kFrameBytes);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kLookaheadBytes);
  if (options.ping_period <= absl::ZeroDuration()) return;
  const auto period = static_cast<int>(absl::ToInt64Milliseconds(options.ping_period));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, period);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(options.ping_timeout)));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Pings of others are no offence, however often they come.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, period / 2);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
}

}  // namespace penstock
