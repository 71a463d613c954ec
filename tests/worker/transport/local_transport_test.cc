#include "worker/transport/local_transport.h"

#include <gtest/gtest.h>

#include "tests/support/local_endpoint.h"
#include "tests/worker/transport/transport_suite.h"

namespace penstock::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(Local, TransportTest, ::testing::Values(LocalKind()), KindName);

}  // namespace
}  // namespace penstock::testing
