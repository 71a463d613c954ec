// A server on a free port of this machine with a FakeExecutor's model and a small vocabulary behind
// it, and a client's stub.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "frontend/grpc_server.h"
#include "penstock/v1/inference.grpc.pb.h"
#include "tests/support/fake_executor.h"
#include "tests/support/small_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace penstock {

class InferenceFixture : public testing::Test {
 protected:
  using Responses = std::vector<v1::GenerateResponse>;

  InferenceFixture() : control_(std::make_shared<FakeStageControl>()) {
    std::unique_ptr<Tokenizer> tokenizer = MakeTokenizer(SmallVocabulary()).value();
    model_.vocab_size = static_cast<int32_t>(tokenizer->vocab_size());
    options_.stage.max_sequences = model_.max_sequences;
    options_.stage.max_step_tokens = model_.max_step_tokens;
    options_.limits.default_max_tokens = 8;
  }
  ~InferenceFixture() override { control_->Release(); }

  void StartServer() {
    GrpcServerOptions options;
    options.listen = {"127.0.0.1", 0};
    options.max_message_bytes = 4096;
    server_ = GrpcServer::Start(options).value();
    channel_ =
        grpc::CreateChannel(server_->address().ToString(), grpc::InsecureChannelCredentials());
    stub_ = v1::Inference::NewStub(channel_);
  }
  void StartModel() {
    runtime_ = ModelRuntime::Start(options_, MakeTokenizer(SmallVocabulary()).value(),
                                   std::make_unique<FakeExecutor>(model_, control_))
                   .value();
    server_->SetReady(runtime_.get());
  }
  void StartAll() {
    StartServer();
    StartModel();
  }

  // A greedy request whose answer has `max_tokens` tokens, no end token among them.
  v1::GenerateRequest Endless(int64_t max_tokens, int32_t first = 10) const {
    v1::GenerateRequest request;
    request.mutable_token_ids()->add_ids(first);
    request.mutable_token_ids()->add_ids(11);
    request.mutable_sampling()->set_max_tokens(max_tokens);
    request.mutable_sampling()->set_seed(0);
    while (Alone(request).back() < 2 || static_cast<int64_t>(Alone(request).size()) < max_tokens) {
      request.mutable_sampling()->set_seed(request.sampling().seed() + 1);
    }
    return request;
  }
  // The ids that the fake model makes of it.
  std::vector<int32_t> Alone(const v1::GenerateRequest& request) const {
    const auto& ids = request.token_ids().ids();
    return FakeModel(model_).Alone({ids.begin(), ids.end()}, request.sampling().max_tokens(),
                                   request.sampling().seed(), {0, 1});
  }
  grpc::Status Generate(const v1::GenerateRequest& request, Responses* responses,
                        std::chrono::milliseconds timeout = std::chrono::seconds(20)) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout);
    return Generate(request, &context, responses);
  }
  grpc::Status Generate(const v1::GenerateRequest& request, grpc::ClientContext* context,
                        Responses* responses) {
    const auto reader = stub_->Generate(context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) responses->push_back(response);
    return reader->Finish();
  }
  grpc::StatusCode Code(const v1::GenerateRequest& request) {
    Responses responses;
    return Generate(request, &responses).error_code();
  }
  static std::vector<int32_t> Ids(const Responses& responses) {
    std::vector<int32_t> ids;
    for (const v1::GenerateResponse& response : responses) {
      ids.insert(ids.end(), response.ids().begin(), response.ids().end());
    }
    return ids;
  }
  static bool Eventually(const std::function<bool()>& condition) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }
  bool EngineIsEmpty() const {
    const EngineStats stats = runtime_->engine().stats();
    return stats.running == 0 && stats.waiting == 0 && stats.blocks_free == stats.blocks_total;
  }

  FakeModelOptions model_;
  RuntimeOptions options_;
  const std::shared_ptr<FakeStageControl> control_;
  std::unique_ptr<ModelRuntime> runtime_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

}  // namespace penstock
