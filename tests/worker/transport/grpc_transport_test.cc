#include "worker/transport/grpc_transport.h"

#include <gtest/gtest.h>

#include "tests/support/grpc_endpoint.h"
#include "tests/worker/transport/transport_suite.h"

namespace penstock::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(Grpc, TransportTest,
                         ::testing::Values(UnixKind(), TcpKind(), SmallChunksKind()), KindName);

}  // namespace
}  // namespace penstock::testing
