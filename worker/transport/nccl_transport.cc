#include "worker/transport/nccl_transport.h"

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/log.h"
#include "worker/transport/cpu_lanes.h"
#include "worker/transport/nccl_pair.h"
#include "worker/transport/receive_queue.h"

namespace penstock {
namespace {

// The other transport's transfer 1, then one for each transfer of rows.
struct Hello {
  static constexpr int64_t kProtocol = 1;
  int64_t protocol = kProtocol;
  int64_t nccl_version = 0;
  NcclId id;
};
struct Header {
  int64_t plan = 0;
  int64_t bytes = 0;
};
template <typename Message>
Tensor View(Message& message) {
  static_assert(sizeof(Message) % 8 == 0);
  return Tensor::Borrow(&message, DataType::kI64, {static_cast<int64_t>(sizeof(Message) / 8)});
}
constexpr uint64_t kHelloNumber = 1;

absl::Status Closed() { return absl::CancelledError("the lane was cancelled"); }

class NcclSendEnd final : public SendEnd {
 public:
  NcclSendEnd(std::unique_ptr<SendLane> headers, const NcclTransportOptions& options)
      : headers_(std::move(headers)), options_(options) {}

  absl::Status Connect(const Deadline& deadline) {
    options_.out->Use();
    Hello hello;
    hello.nccl_version = options_.library->version;
    const int made = options_.library->get_unique_id(&hello.id);
    if (made != NcclLibrary::kSuccess) {
      return absl::InternalError(
          absl::StrCat("NCCL has no network here: ", options_.library->Reason(made, nullptr),
                       ": set NCCL_SOCKET_IFNAME to an interface of this host, or use --transport "
                       "grpc"));
    }
    PENSTOCK_RETURN_IF_ERROR(headers_->SendNow(View(hello), kHelloNumber, deadline.left()));
    NcclPairOptions pair;
    pair.library = options_.library;
    pair.stream = options_.out;
    pair.abort_limit = options_.abort_limit;
    pair.ended = [this] { return headers_->status(); };
    PENSTOCK_ASSIGN_OR_RETURN(
        pair_, NcclPair::Connect(std::move(pair), hello.id, NcclPair::Role::kSends, deadline));
    return absl::OkStatus();
  }

  absl::Status Send(std::span<const std::byte> bytes, uint64_t plan,
                    const Deadline& deadline) override {
    if (headers_ == nullptr) return Closed();  // what is on a stream outlives its lane
    Header header{static_cast<int64_t>(plan), std::ssize(bytes)};
    PENSTOCK_RETURN_IF_ERROR(headers_->SendNow(View(header), ++sent_, deadline.limit()));
    return pair_->Send(bytes.data(), std::ssize(bytes), deadline);
  }
  absl::Status status() const override {
    return headers_ != nullptr ? headers_->status() : Closed();
  }
  void Cancel() override { headers_->Cancel(); }
  void Close() override {
    pair_.reset();
    headers_.reset();
  }

 private:
  std::unique_ptr<SendLane> headers_;
  const NcclTransportOptions options_;
  std::unique_ptr<NcclPair> pair_;  // behind headers_, which it asks
  uint64_t sent_ = kHelloNumber;    // of the other transport's
};

// A thread of its own connects: the stage that opens this end has its own sending end to connect.
class NcclReceiveEnd final : public ReceiveEnd {
 public:
  NcclReceiveEnd(std::unique_ptr<ReceiveLane> headers, const NcclTransportOptions& options)
      : options_(options), headers_(std::move(headers)), thread_([this] { Connect(); }) {}

  absl::Status Take(uint64_t plan, std::span<std::byte> bytes, const Deadline& deadline) override {
    PENSTOCK_RETURN_IF_ERROR(WaitConnected(plan, deadline));
    while (true) {
      PENSTOCK_RETURN_IF_ERROR(NextHeader(plan, deadline));
      const auto got = static_cast<uint64_t>(header_.plan);
      if (got > plan || (got == plan && header_.bytes != std::ssize(bytes))) {
        return TransferIsWrong(plan, std::ssize(bytes), got, header_.bytes);
      }
      has_header_ = false;
      if (got == plan) return pair_->Receive(bytes.data(), std::ssize(bytes), deadline);
      PENSTOCK_RETURN_IF_ERROR(pair_->Skip(header_.bytes, deadline));
    }
  }
  absl::Status status() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (cancelled_) return Closed();
    return headers_ != nullptr ? headers_->status() : connected_;
  }
  void Cancel() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      cancelled_ = true;
      if (headers_ != nullptr) headers_->Cancel();
    }
    changed_.notify_one();
  }
  void Close() override {
    Cancel();
    if (thread_.joinable()) thread_.join();
    pair_.reset();
    headers_.reset();
  }

 private:
  void Connect() {
    const absl::Status connected = ConnectPair();
    const bool is_mistake = absl::IsInternal(connected) || absl::IsFailedPrecondition(connected);
    if (is_mistake) LogError(absl::StrCat("no rows by NCCL: ", Message(connected)));
    std::shared_ptr<ReceiveLane> closed;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      connected_ = connected;
      has_tried_ = true;
      if (!connected.ok()) closed = std::move(headers_);  // the sender waits no longer
    }
    changed_.notify_one();
  }

  absl::Status ConnectPair() {
    Hello hello;
    PENSTOCK_RETURN_IF_ERROR(
        headers_->ReceiveNow(View(hello), kHelloNumber, absl::InfiniteDuration()));
    if (hello.protocol != Hello::kProtocol) {
      return absl::FailedPreconditionError(
          "the stage before this one speaks of NCCL in another way: run one release everywhere");
    }
    if (hello.nccl_version != options_.library->version) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the stage before this one has NCCL ", NcclLibrary::VersionText(hello.nccl_version),
          ", this one ", options_.library->Version(), ": install one version everywhere"));
    }
    NcclPairOptions pair;
    pair.library = options_.library;
    pair.stream = options_.in;
    pair.abort_limit = options_.abort_limit;
    pair.ended = [this] { return status(); };
    PENSTOCK_ASSIGN_OR_RETURN(
        pair_, NcclPair::Connect(std::move(pair), hello.id, NcclPair::Role::kReceives,
                                 Deadline(absl::InfiniteDuration())));
    return absl::OkStatus();
  }

  absl::Status WaitConnected(uint64_t plan, const Deadline& deadline) {
    std::unique_lock<std::mutex> lock(mutex_);
    const bool in_time = deadline.Wait(changed_, lock, [this] { return has_tried_ || cancelled_; });
    if (cancelled_) return Closed();
    return in_time ? connected_ : TransferIsLate(plan, deadline.limit());
  }

  // The next transfer's, which stays until it is taken.
  absl::Status NextHeader(uint64_t plan, const Deadline& deadline) {
    if (has_header_) return absl::OkStatus();
    const absl::Status heard = headers_->ReceiveNow(View(header_), taken_ + 1, deadline.left());
    if (absl::IsDeadlineExceeded(heard)) return TransferIsLate(plan, deadline.limit());
    PENSTOCK_RETURN_IF_ERROR(heard);
    ++taken_;
    if (header_.bytes < 0 || header_.bytes > options_.transport.max_transfer_bytes) {
      return absl::InternalError(absl::StrCat(
          "transfer ", header_.plan, " of ", header_.bytes, " bytes: more than ",
          options_.transport.max_transfer_bytes, "; the sender is of another version, or broken"));
    }
    has_header_ = true;
    return absl::OkStatus();
  }

  const NcclTransportOptions options_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Null once it could not connect. Changed with mutex_ held, by the thread or after it has ended.
  std::shared_ptr<ReceiveLane> headers_;
  bool cancelled_ = false;  // guarded by mutex_
  bool has_tried_ = false;  // guarded by mutex_
  absl::Status connected_;  // guarded by mutex_

  std::unique_ptr<NcclPair> pair_;  // the thread's until has_tried_, then Take's
  Header header_;                   // Take's
  bool has_header_ = false;         // Take's: not taken yet
  uint64_t taken_ = kHelloNumber;   // Take's: of the other transport's

  std::thread thread_;  // last: it uses the rest
};

class NcclTransport final : public Transport {
 public:
  NcclTransport(Transport& others, NcclTransportOptions options)
      : others_(others), options_(std::move(options)) {}

  std::string address() const override { return others_.address(); }

  std::unique_ptr<ReceiveLane> Open(LaneKind kind, uint32_t epoch) override {
    std::unique_ptr<ReceiveLane> lane = others_.Open(kind, epoch);
    if (kind != LaneKind::kRows) return lane;
    return MakeCpuReceiveLane(std::make_shared<NcclReceiveEnd>(std::move(lane), options_));
  }

  absl::StatusOr<std::unique_ptr<SendLane>> Connect(const std::string& address, LaneKind kind,
                                                    uint32_t epoch, absl::Duration limit) override {
    const Deadline deadline(limit);
    PENSTOCK_ASSIGN_OR_RETURN(std::unique_ptr<SendLane> lane,
                              others_.Connect(address, kind, epoch, limit));
    if (kind != LaneKind::kRows) return lane;
    const auto end = std::make_shared<NcclSendEnd>(std::move(lane), options_);
    if (absl::Status connected = end->Connect(deadline); !connected.ok()) {
      return Annotate(connected, address);
    }
    return MakeCpuSendLane(end, options_.transport);
  }

 private:
  Transport& others_;
  const NcclTransportOptions options_;
};

}  // namespace

std::unique_ptr<Transport> MakeNcclTransport(Transport& others,
                                             const NcclTransportOptions& options) {
  PENSTOCK_CHECK(options.library != nullptr);
  for (const auto& stream : {options.in, options.out}) {
    PENSTOCK_CHECK(stream != nullptr);
    PENSTOCK_CHECK_EQ(stream->scratch_bytes(), kNcclPieceBytes);
  }
  return std::make_unique<NcclTransport>(others, options);
}

absl::Status CheckNcclDevices(const std::vector<std::string>& devices) {
  PENSTOCK_ASSIGN_OR_RETURN(const auto library, NcclLibrary::Open());
  return library->takes_host_memory ? absl::OkStatus() : CheckGpusForNccl(devices);
}

absl::Status CheckGpusForNccl(const std::vector<std::string>& devices) {
  std::set<std::string> seen;
  for (const std::string& device : devices) {
    if (device == "cpu") {
      return absl::FailedPreconditionError(
          "NCCL carries rows between GPUs, and a stage is on the cpu: name GPUs with --device, or "
          "use --transport grpc");
    }
    if (!seen.insert(device).second) {
      return absl::FailedPreconditionError(
          absl::StrCat("NCCL connects no two stages on one GPU, and ", device,
                       " has two: give each stage a GPU with --device, or use --transport grpc"));
    }
  }
  return absl::OkStatus();
}

}  // namespace penstock
