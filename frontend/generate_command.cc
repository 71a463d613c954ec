#include "frontend/generate_command.h"

#include <cstdio>
#include <mutex>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "frontend/inference_client.h"
#include "frontend/prompt_validator.h"
#include "frontend/sampling_request.h"
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
  EncodeSampling(options.sampling, request.mutable_sampling());
  request.set_priority(options.priority);
  request.set_tenant(options.tenant);
  if (options.json && !options.sampling.logprobs) request.mutable_sampling()->set_logprobs(0);
  return request;
}

void Print(std::string_view text) {
  fwrite(text.data(), 1, text.size(), stdout);
  fflush(stdout);
}

std::string FinishReasons(const Generation& generation) {
  return absl::StrJoin(generation.choices, ", ", [](std::string* out, const Choice& choice) {
    absl::StrAppend(out, choice.finish_reason);
  });
}

// Several answers: each under a line with its number.
void PrintChoices(const Generation& generation) {
  for (size_t i = 0; i < generation.choices.size(); ++i) {
    Print(absl::StrCat("--- ", i, "\n", generation.choices[i].text, "\n"));
  }
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
                FinishReasons(outcome.generation), outcome.usage.seed());
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

// A single answer streams to standard output as it comes.
absl::StatusOr<GenerateOutcome> Stream(const GenerateOptions& options, InferenceClient& client) {
  PENSTOCK_RETURN_IF_ERROR(CheckPrecision(options, client));
  const bool streams = !options.json && options.sampling.n.value_or(1) == 1;
  bool printed = false;
  absl::StatusOr<GenerateOutcome> outcome =
      client.Generate(MakeRequest(options), options.timeout, [&](int, std::string_view text) {
        if (!streams) return;
        Print(text);
        printed = true;
      });
  if (printed) Print("\n");
  if (outcome.ok() && !streams && !options.json) PrintChoices(outcome->generation);
  return outcome;
}

absl::Status Generate(const GenerateOptions& options, Canceller& canceller) {
  // A message's text has to be UTF-8, so the server could not be asked.
  if (options.prompt.has_value()) {
    PENSTOCK_RETURN_IF_ERROR(CheckUtf8("the prompt", *options.prompt));
  }
  PENSTOCK_RETURN_IF_ERROR(CheckUtf8("--tenant", options.tenant));
  for (const auto* texts : {&options.sampling.stop, &options.sampling.bad_words}) {
    for (const std::string& text : *texts) {
      PENSTOCK_RETURN_IF_ERROR(
          CheckUtf8(texts == &options.sampling.stop ? "--stop" : "--bad-word", text));
    }
  }
  PENSTOCK_ASSIGN_OR_RETURN(const std::unique_ptr<ModelConnection> connection,
                            ModelConnection::Open(options.model));
  canceller.Set(&connection->client());
  const absl::StatusOr<GenerateOutcome> outcome = Stream(options, connection->client());
  canceller.Set(nullptr);
  if (!outcome.ok()) return outcome.status();
  if (options.json) Print(GenerationToJson(outcome->generation) + "\n");
  if (ferror(stdout) != 0) return absl::UnavailableError("cannot write to standard output");
  PrintStats(*outcome);
  return absl::OkStatus();
}

}  // namespace

int RunGenerate(const GenerateOptions& options) {
  Canceller canceller;
  const SignalThread signals([&canceller](int, int) { canceller.Cancel(); });
  const absl::Status status = Generate(options, canceller);
  if (status.ok()) return 0;
  absl::FPrintF(stderr, "penstock generate: %s: %s%s\n", absl::StatusCodeToString(status.code()),
                Message(status), Hint(status, options.model.server));
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

absl::StatusOr<LogitBias> ParseLogitBias(const std::string& text) {
  LogitBias bias;
  const std::vector<std::string> sides = absl::StrSplit(text, '=');
  if (sides.size() != 2 || !absl::SimpleAtoi(sides[0], &bias.token) ||
      !absl::SimpleAtof(sides[1], &bias.bias)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text,
                     "\" is no bias of a token: write its id, = and what is added to "
                     "its logit, as in 42=-1.5"));
  }
  return bias;
}

}  // namespace penstock
