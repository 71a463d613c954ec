#include "worker/transport/local_transport.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "tests/worker/transport/transport_suite.h"

namespace penstock::testing {
namespace {

class LocalEndpoint final : public Endpoint {
 public:
  explicit LocalEndpoint(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}
  Transport& transport() override { return *transport_; }

 private:
  const std::unique_ptr<Transport> transport_;
};

TransportKind LocalKind() {
  return {"Local", [] {
            return [exchange = std::make_shared<LocalExchange>()](const TransportOptions& options) {
              return std::make_unique<LocalEndpoint>(MakeLocalTransport(exchange, options));
            };
          }};
}

INSTANTIATE_TEST_SUITE_P(Local, TransportTest, ::testing::Values(LocalKind()), KindName);

}  // namespace
}  // namespace penstock::testing
