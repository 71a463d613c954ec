// The transport between GPUs of any machines: the bytes of rows go by NCCL, over NVLink, PCIe or
// the network, and never through the host's memory; another transport (grpc) beside it carries
// sampled tokens, and of each transfer of rows its number and size. So who is there, order,
// windows, deadlines, TLS, and the news of a dead process are that one's.
//
//   sender                         receiver
//   hello: NCCL's id         ──▶                   over the other transport, as transfer 1
//          the two make a communicator of their own (nccl_pair.h)
//   plan, bytes; ncclSend    ──▶   ncclRecv, straight into the tensor that is asked for
//
// A send returns once NCCL has taken the bytes: small ones into buffers of its own, larger ones as
// the receiver takes them. A lane is a communicator of one epoch: NCCL takes device memory of its
// own for it, after `ready`, and gives most of it back. With a sender that is gone also goes what
// has not been taken. Stages are processes; where NCCL does not let go of a dead one, the process
// ends and is started again.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/tensor/link_stream.h"
#include "worker/transport/nccl_library.h"
#include "worker/transport/transport.h"

namespace penstock {

struct NcclTransportOptions {
  TransportOptions transport = {};
  std::shared_ptr<const NcclLibrary> library;
  // Of the stage's device, for what comes and for what goes; of one number of scratch bytes on all
  // stages, kNcclPieceBytes.
  std::shared_ptr<LinkStream> in;
  std::shared_ptr<LinkStream> out;
  absl::Duration abort_limit = absl::Seconds(10);
};

// A transfer is sent in pieces of so many bytes.
inline constexpr int64_t kNcclPieceBytes = int64_t{4} << 20;

// `others` carries tokens and the headers; its address is this one's. It must outlive the
// transport. Tensors of rows are the device's.
std::unique_ptr<Transport> MakeNcclTransport(Transport& others,
                                             const NcclTransportOptions& options);

// OK if stages on these devices of one machine can be connected by NCCL. Opens the library, and no
// GPU. Errors, with what to do: those of NcclLibrary::Open, FAILED_PRECONDITION.
absl::Status CheckNcclDevices(const std::vector<std::string>& devices);
// The same of the devices alone.
absl::Status CheckGpusForNccl(const std::vector<std::string>& devices);

}  // namespace penstock
