#include "frontend/chat_command.h"

#include <unistd.h>

#include <csignal>
#include <iostream>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "frontend/chat_session.h"
#include "frontend/prompt_validator.h"
#include "frontend/sampling_request.h"
#include "frontend/signal_thread.h"

namespace penstock {
namespace {

constexpr const char* kPrompt = "> ";
constexpr const char* kGreeting = "Chat with %s. /help tells the commands.\n";

// Ctrl-C: ends the answer that comes, or the program while there is no model yet.
class Interrupter {
 public:
  void Set(InferenceClient* client) {
    std::lock_guard<std::mutex> lock(mutex_);
    client_ = client;
  }
  void OnSignal(int signal) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (signal != SIGINT || client_ == nullptr) _exit(128 + signal);
    if (client_->CancelRunning()) return;
    // The terminal has thrown away what was typed.
    std::cerr << "\n(/quit or Ctrl-D ends)\n" << kPrompt << std::flush;
  }

 private:
  std::mutex mutex_;
  InferenceClient* client_ = nullptr;  // guarded by mutex_
};

v1::GenerateRequest MakeRequest(const ChatOptions& options,
                                const std::vector<ChatMessage>& messages) {
  v1::GenerateRequest request;
  for (const ChatMessage& message : messages) {
    v1::ChatMessage* const each = request.mutable_chat()->add_messages();
    each->set_role(message.role);
    each->set_content(message.content);
  }
  EncodeSampling(options.sampling, request.mutable_sampling());
  return request;
}

ChatSession::Answer Ask(const ChatOptions& options, InferenceClient& client,
                        const std::vector<ChatMessage>& messages,
                        const std::function<void(std::string_view)>& on_text) {
  Generation partial;
  const absl::StatusOr<GenerateOutcome> outcome = client.Generate(
      MakeRequest(options, messages), options.timeout,
      [&](int, std::string_view text) { on_text(text); }, &partial);
  ChatSession::Answer answer;
  answer.text = partial.choices[0].text;
  answer.is_cut = outcome.ok() && partial.choices[0].finish_reason == "length";
  if (!outcome.ok()) {
    answer.status = {
        outcome.status().code(),
        absl::StrCat(outcome.status().message(), Hint(outcome.status(), options.model.server))};
  }
  return answer;
}

absl::StatusOr<int> Chat(const ChatOptions& options, Interrupter& interrupter) {
  if (options.system) PENSTOCK_RETURN_IF_ERROR(CheckUtf8("--system", *options.system));
  PENSTOCK_ASSIGN_OR_RETURN(const std::unique_ptr<ModelConnection> connection,
                            ModelConnection::Open(options.model));
  InferenceClient& client = connection->client();
  PENSTOCK_ASSIGN_OR_RETURN(const v1::GetModelInfoResponse info,
                            client.GetModelInfo(options.timeout));
  if (!info.chat()) {
    if (connection->runtime() != nullptr) return connection->runtime()->chat_template().status();
    return absl::FailedPreconditionError(
        "the server's model has no chat template that is known: start the server with "
        "--chat-template NAME");
  }
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) fprintf(stderr, kGreeting, info.model().c_str());

  ChatSession session([&](const auto& messages,
                          const auto& on_text) { return Ask(options, client, messages, on_text); },
                      options.system, std::cout, std::cerr);
  interrupter.Set(&client);
  std::string line;
  bool goes_on = true;
  while (goes_on) {
    if (terminal) std::cerr << kPrompt << std::flush;
    goes_on = static_cast<bool>(std::getline(std::cin, line)) && session.Handle(line);
  }
  if (terminal) std::cerr << "\n";
  interrupter.Set(nullptr);
  if (!std::cout) return absl::UnavailableError("cannot write to standard output");
  return !terminal && session.failures() > 0 ? 1 : 0;
}

}  // namespace

int RunChat(const ChatOptions& options) {
  Interrupter interrupter;
  const SignalThread signals([&](int, int signal) { interrupter.OnSignal(signal); });
  const absl::StatusOr<int> code = Chat(options, interrupter);
  if (code.ok()) return *code;
  std::cerr << "penstock chat: " << Message(code.status())
            << Hint(code.status(), options.model.server) << "\n";
  return 1;
}

}  // namespace penstock
