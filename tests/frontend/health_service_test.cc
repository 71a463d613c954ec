#include "frontend/health_service.h"

#include <gtest/gtest.h>

#include "tests/support/inference_fixture.h"
#include "tests/support/raw_call.h"

namespace penstock {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

class HealthServiceTest : public InferenceFixture {
 protected:
  grpc::Status Check(const std::string& service, HealthCheckResponse* response) {
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service(service);
    return grpc::health::v1::Health::NewStub(channel_)->Check(&context, request, response);
  }
  HealthCheckResponse::ServingStatus State(const std::string& service = "") {
    HealthCheckResponse response;
    EXPECT_TRUE(Check(service, &response).ok());
    return response.status();
  }
};

TEST_F(HealthServiceTest, ServesBetweenLoadingAndDraining) {
  StartServer();
  EXPECT_EQ(State(), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(State("penstock.v1.Inference"), HealthCheckResponse::NOT_SERVING);
  StartModel();
  EXPECT_EQ(State(), HealthCheckResponse::SERVING);
  EXPECT_EQ(State("penstock.v1.Inference"), HealthCheckResponse::SERVING);
  server_->SetDraining();
  EXPECT_EQ(State(), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(State("penstock.v1.Inference"), HealthCheckResponse::NOT_SERVING);
}

TEST_F(HealthServiceTest, KnowsNoOtherService) {
  StartServer();
  HealthCheckResponse response;
  EXPECT_EQ(Check("penstock.v2.Inference", &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(HealthServiceTest, IsNotServingOnceTheStageIsLost) {
  options_.pipeline.max_deaths = 0;
  StartAll();
  control_->FailAt(1, absl::InternalError("broken"));
  EXPECT_EQ(Code(Endless(2)), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Eventually([this] { return State() == HealthCheckResponse::NOT_SERVING; }));
}

TEST_F(HealthServiceTest, WatchersAreToldOfChangesAndEnd) {
  StartServer();
  grpc::ClientContext context;
  const auto stub = grpc::health::v1::Health::NewStub(channel_);
  const auto reader = stub->Watch(&context, {});
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  StartModel();
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server_->SetDraining();
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  // A watch does not hold the shutdown up.
  server_->Shutdown(absl::Seconds(20));
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(HealthServiceTest, AWatchOfAnotherServiceIsToldThatItIsUnknown) {
  StartServer();
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("another");
  const auto reader = grpc::health::v1::Health::NewStub(channel_)->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

// Without it a client such as grpcurl knows the name of the service but not how to call it. The
// bytes are a ServerReflectionRequest with file_containing_symbol (field 4).
TEST_F(HealthServiceTest, ReflectionDescribesTheServices) {
  StartServer();
  for (const auto& [symbol, file] : std::initializer_list<std::pair<std::string, std::string>>{
           {"grpc.health.v1.Health", "grpc/health/v1/health.proto"},
           {"penstock.v1.Inference", "penstock/v1/inference.proto"}}) {
    std::string request = "\x22";
    request += static_cast<char>(symbol.size());
    request += symbol;
    std::string response;
    EXPECT_TRUE(CallRaw(channel_, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                        request, &response)
                    .ok());
    EXPECT_NE(response.find(file), std::string::npos) << symbol;
  }
}

}  // namespace
}  // namespace penstock
