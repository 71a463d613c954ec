#include "frontend/generate_command.h"

#include <cstdio>
#include <mutex>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "frontend/grpc_server.h"
#include "frontend/inference_client.h"
#include "frontend/signal_thread.h"

namespace penstock {
namespace {

v1::GenerateRequest MakeRequest(const GenerateOptions& options) {
  v1::GenerateRequest request;
  if (options.prompt.has_value()) request.set_text(*options.prompt);
  if (options.prompt_ids.has_value()) {
    request.mutable_token_ids()->mutable_ids()->Add(options.prompt_ids->begin(),
                                                    options.prompt_ids->end());
  }
  request.set_parse_special(options.special);
  v1::SamplingParams* sampling = request.mutable_sampling();
  if (options.max_tokens.has_value()) sampling->set_max_tokens(*options.max_tokens);
  if (options.temperature.has_value()) sampling->set_temperature(*options.temperature);
  if (options.top_k.has_value()) sampling->set_top_k(*options.top_k);
  if (options.top_p.has_value()) sampling->set_top_p(*options.top_p);
  if (options.seed.has_value()) sampling->set_seed(*options.seed);
  if (options.json) sampling->set_logprobs(0);
  return request;
}

void Print(std::string_view text) {
  fwrite(text.data(), 1, text.size(), stdout);
  fflush(stdout);
}

void PrintStats(const GenerateOutcome& outcome) {
  const auto tokens = outcome.usage.completion_tokens();
  const double decode = absl::ToDoubleSeconds(outcome.total - outcome.to_first_token);
  const std::string rate =
      tokens > 1 && decode > 0
          ? absl::StrFormat(" (%.1f tok/s)", static_cast<double>(tokens - 1) / decode)
          : "";
  absl::FPrintF(stderr,
                "%d prompt tokens; first token after %.3f s; %d tokens in %.3f s%s; finish reason "
                "%s; seed %d\n",
                outcome.usage.prompt_tokens(), absl::ToDoubleSeconds(outcome.to_first_token),
                tokens, absl::ToDoubleSeconds(outcome.total), rate,
                outcome.generation.finish_reason, outcome.usage.seed());
}

// What the server's own message does not say.
std::string Hint(const absl::Status& status, const GenerateOptions& options) {
  if (status.code() == absl::StatusCode::kDeadlineExceeded) {
    return " (allow more time with --timeout, or ask for fewer --max-tokens)";
  }
  if (status.code() == absl::StatusCode::kUnavailable && !options.server.empty()) {
    return absl::StrCat(" (is a server ready at ", options.server,
                        "? start one with: penstock serve --model FILE --listen ", options.server,
                        ")");
  }
  return "";
}

// Ctrl-C, which may come before there is a client.
class Canceller {
 public:
  void Set(InferenceClient* client) {
    std::lock_guard<std::mutex> lock(mutex_);
    client_ = client;
    if (cancelled_ && client_ != nullptr) client_->Cancel();
  }
  void Cancel() {
    std::lock_guard<std::mutex> lock(mutex_);
    cancelled_ = true;
    if (client_ != nullptr) client_->Cancel();
  }

 private:
  std::mutex mutex_;
  InferenceClient* client_ = nullptr;  // guarded by mutex_
  bool cancelled_ = false;             // guarded by mutex_
};

absl::Status CheckPrecision(const GenerateOptions& options, InferenceClient& client) {
  if (!options.precision.has_value()) return absl::OkStatus();
  PENSTOCK_ASSIGN_OR_RETURN(const v1::GetModelInfoResponse info,
                            client.GetModelInfo(options.timeout));
  if (info.precision() == *options.precision) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the server computes in precision ", info.precision(), ", not ",
                   *options.precision, ": leave --precision out or ask another server"));
}

// Streams to standard output as the answer comes.
absl::StatusOr<GenerateOutcome> Stream(const GenerateOptions& options, InferenceClient& client) {
  PENSTOCK_RETURN_IF_ERROR(CheckPrecision(options, client));
  bool printed = false;
  absl::StatusOr<GenerateOutcome> outcome =
      client.Generate(MakeRequest(options), options.timeout, [&](std::string_view text) {
        if (options.json) return;
        Print(text);
        printed = true;
      });
  if (printed) Print("\n");
  return outcome;
}

absl::Status GenerateOver(const GenerateOptions& options,
                          const std::shared_ptr<grpc::Channel>& channel, Canceller& canceller) {
  InferenceClient client(channel);
  canceller.Set(&client);
  const absl::StatusOr<GenerateOutcome> outcome = Stream(options, client);
  canceller.Set(nullptr);
  if (!outcome.ok()) return outcome.status();
  if (options.json) Print(GenerationToJson(outcome->generation) + "\n");
  if (ferror(stdout) != 0) return absl::UnavailableError("cannot write to standard output");
  PrintStats(*outcome);
  return absl::OkStatus();
}

absl::Status Generate(const GenerateOptions& options, Canceller& canceller) {
  // A message's text has to be UTF-8, so the server could not be asked.
  if (options.prompt.has_value())
    PENSTOCK_RETURN_IF_ERROR(CheckUtf8("the prompt", *options.prompt));
  if (!options.server.empty()) {
    PENSTOCK_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(options.server));
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    return GenerateOver(options,
                        grpc::CreateCustomChannel(address.ToString(),
                                                  grpc::InsecureChannelCredentials(), arguments),
                        canceller);
  }
  // Before the server, which uses it until it is gone.
  PENSTOCK_ASSIGN_OR_RETURN(const std::unique_ptr<ModelRuntime> runtime,
                            ModelRuntime::Load(options.runtime));
  PENSTOCK_ASSIGN_OR_RETURN(const std::unique_ptr<GrpcServer> server, GrpcServer::Start({}));
  server->SetReady(runtime.get());
  return GenerateOver(options, server->InProcessChannel(), canceller);
}

}  // namespace

int RunGenerate(const GenerateOptions& options) {
  Canceller canceller;
  const SignalThread signals([&canceller](int) { canceller.Cancel(); });
  const absl::Status status = Generate(options, canceller);
  if (status.ok()) return 0;
  absl::FPrintF(stderr, "penstock generate: %s: %s%s\n", absl::StatusCodeToString(status.code()),
                Message(status), Hint(status, options));
  return 1;
}

absl::StatusOr<std::vector<int32_t>> ParseTokenIds(const std::string& text) {
  std::vector<int32_t> ids;
  if (text.empty()) return ids;
  const std::vector<std::string> items = absl::StrSplit(text, ',');
  for (const std::string& item : items) {
    if (!absl::SimpleAtoi(item, &ids.emplace_back())) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", item, "\" (item ", ids.size(),
                       ") is no token id: write numbers with commas between them, as in 1,2,3"));
    }
  }
  return ids;
}

}  // namespace penstock
