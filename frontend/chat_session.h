// ChatSession: what `penstock chat` does with its lines, apart from terminals and models: the
// conversation so far, the commands, the answers. Not thread-safe.
#pragma once

#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/chat_template.h"

namespace penstock {

class ChatSession {
 public:
  struct Answer {
    std::string text;     // what has come, if only a part of it
    bool is_cut = false;  // by max_tokens or the end of the context
    absl::Status status;  // CANCELLED: by the user
  };
  // Asks the model; `on_text` is to be called with each piece as it comes.
  using Ask = std::function<Answer(const std::vector<ChatMessage>& messages,
                                   const std::function<void(std::string_view)>& on_text)>;

  // Answers go to `out`, all else that is to be said to `notes`. Both must outlive it.
  ChatSession(Ask ask, std::optional<std::string> system, std::ostream& out, std::ostream& notes);

  // Does what a line says: a command (/help tells them) or a message. False once it is /quit.
  bool Handle(const std::string& line);

  // Messages that got no answer, by an error.
  int failures() const { return failures_; }
  const std::vector<ChatMessage>& messages() const { return messages_; }

 private:
  bool Command(std::string_view name, std::string_view argument);
  void Reset();
  void Say(const std::string& text);

  const Ask ask_;
  std::optional<std::string> system_;
  std::ostream& out_;
  std::ostream& notes_;
  std::vector<ChatMessage> messages_;
  int failures_ = 0;
};

}  // namespace penstock
