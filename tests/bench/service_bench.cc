// What the gRPC service costs: the same requests straight to the engine, and over the network of
// this machine to the service in front of that engine, in turns.
// usage: service_bench MODEL [THREADS] [REQUESTS] [PROMPT] [OUTPUT]; prints one JSON line. Both
// ways must give the same tokens.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/base/check.h"
#include "frontend/bench_client.h"
#include "frontend/grpc_server.h"
#include "frontend/model_runtime.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 4;  // of each way

class Collector final : public TokenSink {
 public:
  void OnPrompt(std::span<const PromptLogprob>) override {}
  void OnTokens(std::span<const GeneratedToken> tokens) override {
    for (const GeneratedToken& token : tokens) ids_.push_back(token.id);
  }
  void OnFinish(FinishReason, const absl::Status& status) override {
    std::lock_guard<std::mutex> lock(mutex_);
    PENSTOCK_CHECK(status.ok());
    done_ = true;
    changed_.notify_all();
  }
  const std::vector<int32_t>& Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return ids_;
  }

 private:
  std::vector<int32_t> ids_;  // the engine thread's until done_
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;  // guarded by mutex_
};

using Answers = std::vector<std::vector<int32_t>>;

Answers AskEngine(EngineLoop& engine, const std::vector<TraceRequest>& trace, int64_t vocabulary) {
  std::vector<std::shared_ptr<Collector>> sinks;
  for (const TraceRequest& traced : trace) {
    GenerationRequest request;
    request.prompt = TracePromptIds(traced.seed, traced.prompt, vocabulary);
    request.sampling.temperature = 0;  // and no stop ids: every token that was asked for
    request.max_tokens = traced.output;
    sinks.push_back(std::make_shared<Collector>());
    PENSTOCK_CHECK(engine.Submit(std::move(request), sinks.back()).ok());
  }
  Answers answers;
  for (const auto& sink : sinks) answers.push_back(sink->Wait());
  return answers;
}

Answers AskService(const std::shared_ptr<grpc::Channel>& channel,
                   const std::vector<TraceRequest>& trace, int64_t vocabulary) {
  Answers answers;
  for (BenchCall& call :
       RunBench({channel}, trace, {.vocabulary = vocabulary}, [](int64_t, int64_t) {})) {
    PENSTOCK_CHECK(call.error.empty());
    answers.push_back(std::move(call.ids));
  }
  return answers;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    fputs("usage: service_bench MODEL [THREADS] [REQUESTS] [PROMPT] [OUTPUT]\n", stderr);
    return 2;
  }
  const auto number = [&](int i, int64_t otherwise) {
    return argc > i ? strtoll(argv[i], nullptr, 10) : otherwise;
  };
  RuntimeOptions options;
  options.stage.model = argv[1];
  options.stage.threads = static_cast<int>(number(2, 2));
  options.stage.kv_memory_bytes = int64_t{1} << 30;
  const int64_t requests = number(3, 16);
  std::vector<TraceRequest> trace;
  for (int64_t i = 0; i < requests; ++i) trace.push_back({0, number(4, 32), number(5, 128), i});

  absl::StatusOr<std::unique_ptr<ModelRuntime>> runtime = ModelRuntime::Load(options);
  if (!runtime.ok()) {
    fprintf(stderr, "service_bench: %s\n", std::string(runtime.status().message()).c_str());
    return 1;
  }
  const int64_t vocabulary = (*runtime)->tokenizer().vocab_size();
  const auto server = GrpcServer::Start({.listen = ListenAddress{"127.0.0.1", 0}}).value();
  server->SetReady(runtime->get());
  const auto channel =
      grpc::CreateChannel(server->address().ToString(), grpc::InsecureChannelCredentials());

  // The first round of each warms up: it fills the prefix cache, so that all others are alike.
  std::vector<double> engine_times;
  std::vector<double> service_times;
  Answers first;
  for (int round = 0; round <= 2 * kRounds; ++round) {
    const bool direct = round % 4 == 0 || round % 4 == 3;  // A B B A
    const Clock::time_point start = Clock::now();
    const Answers answers = direct ? AskEngine((*runtime)->engine(), trace, vocabulary)
                                   : AskService(channel, trace, vocabulary);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (round == 0) {
      first = answers;
      continue;
    }
    PENSTOCK_CHECK(answers == first);
    (direct ? engine_times : service_times).push_back(seconds);
  }
  int64_t tokens = 0;
  for (const TraceRequest& request : trace) tokens += request.output;
  const double engine = static_cast<double>(tokens) / Median(engine_times);
  const double service = static_cast<double>(tokens) / Median(service_times);
  printf(
      "{\"requests\": %lld, \"tokens\": %lld, \"threads\": %lld, \"engine_tokens_per_s\": %.1f, "
      "\"service_tokens_per_s\": %.1f, \"ratio\": %.3f}\n",
      static_cast<long long>(requests), static_cast<long long>(tokens),
      static_cast<long long>(options.stage.threads), engine, service, service / engine);
  server->SetDraining();
  server->Shutdown(absl::Seconds(1));
  return 0;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) { return penstock::Main(argc, argv); }
