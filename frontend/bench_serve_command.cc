#include "frontend/bench_serve_command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/listen_address.h"
#include "frontend/inference_client.h"
#include "frontend/model_connection.h"

namespace penstock {
namespace {

constexpr absl::Duration kInfoTimeout = absl::Seconds(10);
constexpr int kBarWidth = 30;

using Channels = std::vector<std::shared_ptr<grpc::Channel>>;

// Channels of equal settings would share one connection.
absl::StatusOr<Channels> Connect(const BenchServeOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(const ListenAddress server, ParseListenAddress(options.server));
  Channels channels;
  for (int i = 0; i < options.connections; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channels.push_back(grpc::CreateCustomChannel(server.ToString(),
                                                 grpc::InsecureChannelCredentials(), arguments));
  }
  return channels;
}

class ProgressBar {
 public:
  explicit ProgressBar(int64_t total) : total_(total), shown_(isatty(STDERR_FILENO) == 1) {}
  ~ProgressBar() {
    if (shown_) fputs("\r\x1b[K", stderr);
  }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(int64_t done, int64_t tokens) const {
    if (!shown_) return;
    const auto full = static_cast<size_t>(done * kBarWidth / total_);
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start_);
    absl::FPrintF(stderr, "\r\x1b[K[%s%s] %d of %d requests, %.0f tokens/s", std::string(full, '#'),
                  std::string(kBarWidth - full, ' '), done, total_,
                  seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0);
    fflush(stderr);
  }

 private:
  const int64_t total_;
  const bool shown_;
  const absl::Time start_ = absl::Now();
};

// Sends the first requests again, one at a time: an answer must not depend on what ran beside it.
absl::Status CheckAlone(InferenceClient& client, const std::vector<TraceRequest>& trace,
                        const std::vector<BenchCall>& calls, const BenchServeOptions& options) {
  int64_t checked = 0;
  for (size_t i = 0; i < calls.size() && checked < options.check; ++i) {
    if (!calls[i].error.empty()) continue;
    PENSTOCK_ASSIGN_OR_RETURN(const GenerateOutcome outcome,
                              client.Generate(BenchRequest(trace[i], options.run),
                                              options.run.timeout, [](int, std::string_view) {}));
    ++checked;
    const std::vector<int32_t>& alone = outcome.generation.choices[0].ids;
    if (alone == calls[i].ids) continue;
    const auto differs =
        std::mismatch(alone.begin(), alone.end(), calls[i].ids.begin(), calls[i].ids.end());
    return absl::InternalError(absl::StrCat(
        "--check: request ", i, " of the trace has another answer when it is alone, from token ",
        differs.first - alone.begin(),
        " on; on a GPU start the server with --invariant for answers that do not depend on what "
        "runs "
        "beside them"));
  }
  absl::PrintF("check          %d requests had the same answer alone\n", checked);
  return absl::OkStatus();
}

absl::Status WriteJson(const std::string& path, const std::string& json) {
  std::ofstream file(path);
  file << json;
  file.close();
  if (file) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("cannot write ", path, ": name a file in a writable folder"));
}

// Tells the figures before it checks answers: they hold whatever comes of that.
absl::StatusOr<BenchSummary> Bench(const BenchServeOptions& given) {
  BenchServeOptions options = given;
  PENSTOCK_ASSIGN_OR_RETURN(std::vector<TraceRequest> trace, ReadTrace(options.trace));
  if (options.limit > 0 && static_cast<int64_t>(trace.size()) > options.limit) {
    trace.resize(static_cast<size_t>(options.limit));
  }
  PENSTOCK_ASSIGN_OR_RETURN(const Channels channels, Connect(options));
  InferenceClient client(channels[0]);
  const absl::StatusOr<v1::GetModelInfoResponse> info = client.GetModelInfo(kInfoTimeout);
  if (!info.ok()) {
    return absl::Status(
        info.status().code(),
        absl::StrCat(Abs(Message(info.status())), Abs(Hint(info.status(), options.server))));
  }
  if (info->vocab_size() <= 10 || info->context_length() <= 1) {
    return absl::FailedPreconditionError("the server's model is too small for a trace");
  }
  options.run.vocabulary = info->vocab_size();
  const int64_t clipped =
      ClipTrace({options.max_prompt, options.max_output, info->context_length()}, &trace);
  absl::PrintF("model          %s, context %d tokens, %d stages\n", info->model(),
               info->context_length(), info->num_stages());
  if (clipped > 0) {
    absl::PrintF("clipped        %d of %d requests, to --max-prompt, --max-output or the context\n",
                 clipped, trace.size());
  }
  std::vector<BenchCall> calls;
  {
    const ProgressBar bar(static_cast<int64_t>(trace.size()));
    calls = RunBench(channels, trace, options.run,
                     [&bar](int64_t done, int64_t tokens) { bar.Update(done, tokens); });
  }
  BenchSummary summary = Summarise(calls, options.targets);
  absl::PrintF("%s", BenchText(summary, options.targets));
  if (!options.json.empty()) {
    PENSTOCK_RETURN_IF_ERROR(WriteJson(options.json, BenchJson(summary, options.targets)));
  }
  if (options.check > 0) PENSTOCK_RETURN_IF_ERROR(CheckAlone(client, trace, calls, options));
  return summary;
}

}  // namespace

int RunBenchServe(const BenchServeOptions& options) {
  const absl::StatusOr<BenchSummary> summary = Bench(options);
  if (!summary.ok()) {
    absl::FPrintF(stderr, "%s: %s\n", absl::StatusCodeToString(summary.status().code()),
                  Message(summary.status()));
    return 1;
  }
  if (summary->errors.empty()) return 0;
  absl::FPrintF(stderr, "%d requests failed, the first with: %s\n",
                summary->requests - summary->completed, summary->first_message);
  return 1;
}

}  // namespace penstock
