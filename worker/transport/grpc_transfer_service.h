// GrpcTransferService: the receiving side of the grpc transport, the service
// penstock.worker.v1.Transfer. It stands on the worker's own server; what it receives comes out of
// the ReceiveLanes that GrpcTransport::Open makes of its table.
//
// A call is a lane's sender: it opens with protocol, kind and epoch, waits until the stage opens
// that lane, and then pushes as many transfers as it was given credits for. A call that breaks is a
// dead peer.
// Thread rule: gRPC's. It must outlive its server.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "penstock/worker/v1/worker.grpc.pb.h"
#include "worker/transport/lane_table.h"
#include "worker/transport/transport.h"

namespace penstock {

class GrpcTransferService final : public worker::v1::Transfer::CallbackService {
 public:
  explicit GrpcTransferService(const TransportOptions& options)
      : lanes_(std::make_shared<LaneTable>(options)) {}

  grpc::Service& service() { return *this; }
  const std::shared_ptr<LaneTable>& lanes() const { return lanes_; }

  // Refuses senders that wait and that come. Before the server's Shutdown, which waits for calls;
  // those that have their lane end with it.
  void Shutdown() { lanes_->Shutdown(); }

  grpc::ServerBidiReactor<worker::v1::TransferRequest, worker::v1::TransferResponse>* Push(
      grpc::CallbackServerContext* context) override;

 private:
  const std::shared_ptr<LaneTable> lanes_;
};

}  // namespace penstock
