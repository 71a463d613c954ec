// A stage's door for rows by peer memory, of the host or of a GPU; tokens go inside the process.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "core/base/check.h"
#include "tests/support/transport_ends.h"
#include "worker/backends.h"
#include "worker/transport/local_transport.h"
#include "worker/transport/peer_transport.h"

namespace penstock::testing {

// The largest transfer of the suite, and no more.
inline constexpr int64_t kSuiteMailbox = int64_t{32} << 20;

class PeerEndpoint final : public Endpoint {
 public:
  PeerEndpoint(std::shared_ptr<LocalExchange> exchange, const std::string& device,
               int64_t mailbox_bytes, const TransportOptions& options)
      : tokens_(MakeLocalTransport(std::move(exchange), options)) {
    StageOptions stage;
    stage.device = device;
    auto memory = MakePeerMemory(stage);
    PENSTOCK_CHECK(memory.ok());
    auto transport = MakePeerTransport(*tokens_, *std::move(memory), {options, mailbox_bytes});
    PENSTOCK_CHECK(transport.ok());
    transport_ = *std::move(transport);
  }
  Transport& transport() override { return *transport_; }

 private:
  const std::unique_ptr<Transport> tokens_;
  std::unique_ptr<Transport> transport_;
};

inline TransportKind PeerKind(const std::string& name, const std::string& device) {
  return {name, [device] {
            return [device,
                    exchange = std::make_shared<LocalExchange>()](const TransportOptions& options) {
              return std::make_unique<PeerEndpoint>(exchange, device, kSuiteMailbox, options);
            };
          }};
}

}  // namespace penstock::testing
