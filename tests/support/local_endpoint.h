// A stage's door inside this process.
#pragma once

#include <memory>
#include <utility>

#include "tests/support/transport_ends.h"
#include "worker/transport/local_transport.h"

namespace penstock::testing {

class LocalEndpoint final : public Endpoint {
 public:
  explicit LocalEndpoint(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}
  Transport& transport() override { return *transport_; }

 private:
  const std::unique_ptr<Transport> transport_;
};

inline TransportKind LocalKind() {
  return {"Local", [] {
            return [exchange = std::make_shared<LocalExchange>()](const TransportOptions& options) {
              return std::make_unique<LocalEndpoint>(MakeLocalTransport(exchange, options));
            };
          }};
}

}  // namespace penstock::testing
