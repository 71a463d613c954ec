#include "frontend/startup_check.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "absl/strings/str_join.h"

namespace penstock {
namespace {

constexpr std::string_view kText = "The quick brown fox jumps over the lazy dog";
constexpr size_t kMaxPrompt = 8;
constexpr int64_t kAnswerTokens = 8;
// Of the answers that are compared with it.
constexpr int64_t kComparedTokens = 2;

constexpr const char* kSkip =
    "; this build or this machine does not compute right. --no-startup-check serves without this "
    "check";

class Collector final : public TokenSink {
 public:
  void OnPrompt(std::span<const PromptLogprob>) override {}
  void OnTokens(std::span<const GeneratedToken> tokens) override {
    std::lock_guard<std::mutex> lock(mutex_);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  }
  void OnFinish(FinishReason, const absl::Status& status) override {
    std::lock_guard<std::mutex> lock(mutex_);
    status_ = status;
    done_ = true;
    changed_.notify_all();
  }
  absl::StatusOr<std::vector<GeneratedToken>> Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    if (!status_.ok()) return status_;
    return tokens_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  std::vector<GeneratedToken> tokens_;
  absl::Status status_;
  bool done_ = false;
};

using Answer = std::vector<GeneratedToken>;

// Greedy answers to prompts that arrive one after the other; the first one `times` times at once,
// so that these meet in one step.
absl::StatusOr<std::vector<Answer>> Generate(EngineLoop& engine,
                                             const std::vector<std::vector<int32_t>>& prompts,
                                             int64_t max_tokens, size_t times = 1) {
  std::vector<std::shared_ptr<Collector>> sinks;
  absl::Status refused;
  for (const std::vector<int32_t>& prompt : prompts) {
    GenerationRequest request;
    request.prompt = prompt;
    request.sampling.temperature = 0;
    request.max_tokens = max_tokens;
    std::vector<std::shared_ptr<TokenSink>> choices;
    const size_t before = sinks.size();
    for (size_t i = 0; i < (before == 0 ? times : 1); ++i) {
      sinks.push_back(std::make_shared<Collector>());
      choices.push_back(sinks.back());
    }
    absl::StatusOr<RequestId> id = engine.SubmitChoices(request, choices);
    if (absl::IsResourceExhausted(id.status()) && before > 0) {
      // A short queue: one after the other then.
      PENSTOCK_RETURN_IF_ERROR(sinks[before - 1]->Wait().status());
      id = engine.SubmitChoices(std::move(request), std::move(choices));
    }
    if (!id.ok()) {
      refused = id.status();
      sinks.resize(before);
      break;
    }
  }
  std::vector<Answer> answers;
  for (const std::shared_ptr<Collector>& sink : sinks) {
    PENSTOCK_ASSIGN_OR_RETURN(Answer answer, sink->Wait());
    for (const GeneratedToken& token : answer) {
      if (!std::isfinite(token.logprob)) {
        return absl::InternalError("a log-probability is no finite number");
      }
    }
    answers.push_back(std::move(answer));
  }
  PENSTOCK_RETURN_IF_ERROR(refused);
  return answers;
}

std::vector<int32_t> Ids(const Answer& answer) {
  std::vector<int32_t> ids;
  for (const GeneratedToken& token : answer) ids.push_back(token.id);
  return ids;
}

// The prompt's ids; the first of the vocabulary if the text has none.
std::vector<int32_t> Prompt(const ModelRuntime& runtime) {
  auto ids = runtime.tokenizer().Encode(kText, /*parse_special=*/false);
  std::vector<int32_t> prompt = ids.ok() ? *std::move(ids) : std::vector<int32_t>();
  if (prompt.empty()) prompt.push_back(0);
  const auto room = static_cast<size_t>(
      std::max<int64_t>(1, runtime.limits().context_length - kAnswerTokens - 1));
  prompt.resize(std::min({prompt.size(), kMaxPrompt, room}));
  return prompt;
}

int64_t Room(const ModelRuntime& runtime, const std::vector<int32_t>& prompt) {
  return std::min(kAnswerTokens,
                  runtime.limits().context_length - static_cast<int64_t>(prompt.size()));
}

absl::Status Failed(const absl::Status& status) {
  return {status.code(),
          absl::StrCat("the known-answer check before ready failed: ", status.message(), kSkip)};
}

// `again` is the answer's beginning, bit for bit.
absl::Status Compare(std::string_view how, const Answer& alone, const Answer& again) {
  for (size_t i = 0; i < again.size() && i < alone.size(); ++i) {
    if (again[i].id == alone[i].id && again[i].logprob == alone[i].logprob) continue;
    return absl::InternalError(absl::StrCat("token ", i, " of the answer is ", alone[i].id,
                                            " with the log-probability ", alone[i].logprob,
                                            " for the prompt alone, ", again[i].id, " with ",
                                            again[i].logprob, " ", Abs(how)));
  }
  return absl::OkStatus();
}

absl::Status CheckInvariance(ModelRuntime& runtime, const std::vector<int32_t>& prompt,
                             const Answer& alone, int64_t max_tokens, bool exact) {
  if (!exact) {
    PENSTOCK_ASSIGN_OR_RETURN(const std::vector<Answer> again,
                              Generate(runtime.engine(), {prompt}, kComparedTokens));
    return Compare("when asked again", alone, again[0]);
  }
  std::vector<int32_t> longer = prompt;
  const size_t half = alone.size() / 2;
  for (size_t i = 0; i < half; ++i) longer.push_back(alone[i].id);
  const std::vector<int32_t> other(prompt.begin() + static_cast<int64_t>(prompt.size()) / 2,
                                   prompt.end());
  const int64_t tokens =
      std::max<int64_t>(1, std::min(kComparedTokens, max_tokens - static_cast<int64_t>(half)));
  absl::StatusOr<std::vector<Answer>> batch =
      Generate(runtime.engine(), {prompt, other, longer}, tokens, /*times=*/2);
  // Refused as too many at once, whatever for; a batch that fails has failed.
  if (absl::IsOutOfRange(batch.status()) || absl::IsResourceExhausted(batch.status())) {
    batch = Generate(runtime.engine(), {prompt, other, longer}, tokens);
  }
  PENSTOCK_RETURN_IF_ERROR(batch.status());
  PENSTOCK_RETURN_IF_ERROR(Compare("in a batch with others", alone, batch->front()));
  const Answer rest(alone.begin() + static_cast<int64_t>(half), alone.end());
  return Compare("when its beginning is fed as a prompt", rest, batch->back());
}

}  // namespace

absl::StatusOr<KnownAnswer> GenerateKnownAnswer(ModelRuntime& runtime) {
  KnownAnswer known;
  known.prompt_ids = Prompt(runtime);
  PENSTOCK_ASSIGN_OR_RETURN(
      const std::vector<Answer> answers,
      Generate(runtime.engine(), {known.prompt_ids}, Room(runtime, known.prompt_ids)));
  known.ids = Ids(answers[0]);
  return known;
}

absl::Status CheckAnswers(ModelRuntime& runtime, const std::optional<ModelCheck>& expected,
                          const std::string& path, bool exact) {
  const std::vector<int32_t> prompt = Prompt(runtime);
  const int64_t max_tokens = Room(runtime, prompt);
  const absl::StatusOr<std::vector<Answer>> answers =
      Generate(runtime.engine(), {prompt}, max_tokens);
  if (absl::IsOutOfRange(answers.status())) return absl::OkStatus();
  if (!answers.ok()) return Failed(answers.status());
  const Answer& alone = (*answers)[0];
  if (expected && expected->precision == Name(runtime.precision()) &&
      expected->backend == runtime.device()) {
    if (expected->prompt_ids != prompt || expected->ids != Ids(alone)) {
      return absl::DataLossError(absl::StrCat(
          path, ": the model answers ", absl::StrJoin(Ids(alone), ","), " to the prompt ",
          absl::StrJoin(prompt, ","), ", the check file says ", absl::StrJoin(expected->ids, ","),
          " to ", absl::StrJoin(expected->prompt_ids, ","),
          ": it is another model's, or this program computes something else; write it again with "
          "penstock inspect --write-check if the model is the right one"));
    }
  }
  const absl::Status same = CheckInvariance(runtime, prompt, alone, max_tokens, exact);
  return same.ok() ? same : Failed(same);
}

absl::StatusOr<std::string> FindCheckFile(const std::string& model, bool required) {
  std::error_code error;
  const std::string path = CheckFilePath(model);
  if (std::filesystem::exists(path, error)) return path;
  if (!required) return "";
  return absl::NotFoundError(
      absl::StrCat("there is no check file ", path,
                   ": write one from a copy that is known to be good with penstock inspect ", model,
                   " --write-check, or leave --verify-weights out"));
}

}  // namespace penstock
