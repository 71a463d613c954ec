#include "frontend/chat_session.h"

#include <utility>

#include "core/base/utf8.h"

namespace penstock {
namespace {

constexpr const char* kHelp =
    "/reset         forget the conversation\n"
    "/system TEXT   begin again with this system message; without TEXT: with the model's own\n"
    "/help          this list\n"
    "/quit          end, as Ctrl-D does\n"
    "Ctrl-C ends an answer. A line that begins with // is a message that begins with /.\n";

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return "";
  return text.substr(first, text.find_last_not_of(kSpace) + 1 - first);
}

}  // namespace

ChatSession::ChatSession(Ask ask, std::optional<std::string> system, std::ostream& out,
                         std::ostream& notes)
    : ask_(std::move(ask)), system_(std::move(system)), out_(out), notes_(notes) {
  Reset();
}

void ChatSession::Reset() {
  messages_.clear();
  if (system_) messages_.push_back({"system", *system_});
}

bool ChatSession::Handle(const std::string& line) {
  const std::string_view text = Trimmed(line);
  if (text.empty()) return true;
  if (FindInvalidUtf8(text)) {
    notes_ << "this line is not UTF-8 text and was left out\n" << std::flush;
    ++failures_;
    return true;
  }
  if (text.front() != '/') {
    Say(std::string(text));
    return true;
  }
  if (text.size() > 1 && text[1] == '/') {
    Say(std::string(text.substr(1)));
    return true;
  }
  const size_t space = std::min(text.find(' '), text.size());
  const bool goes_on = Command(text.substr(0, space), Trimmed(text.substr(space)));
  notes_ << std::flush;
  return goes_on;
}

bool ChatSession::Command(std::string_view name, std::string_view argument) {
  if (name == "/quit") return false;
  if (name == "/help") {
    notes_ << kHelp;
  } else if (name == "/reset") {
    Reset();
    notes_ << "the conversation is forgotten\n";
  } else if (name == "/system") {
    system_ = argument.empty() ? std::nullopt : std::optional(std::string(argument));
    Reset();
    notes_ << "a new conversation begins\n";
  } else {
    notes_ << "there is no command " << name << "; /help tells those there are\n";
  }
  return true;
}

void ChatSession::Say(const std::string& text) {
  messages_.push_back({"user", text});
  const Answer answer =
      ask_(messages_, [this](std::string_view piece) { out_ << piece << std::flush; });
  if (!answer.text.empty()) out_ << "\n";
  out_ << std::flush;
  if (answer.status.ok() || (absl::IsCancelled(answer.status) && !answer.text.empty())) {
    // What a cut answer said belongs to the conversation as well: it was read.
    messages_.push_back({"assistant", answer.text});
    if (answer.is_cut) notes_ << "[cut: --max-tokens or the end of the context]\n";
  } else {
    // As if it had not been said, so that the user and the model keep taking turns.
    messages_.pop_back();
    if (!absl::IsCancelled(answer.status)) {
      ++failures_;
      notes_ << absl::StatusCodeToString(answer.status.code()) << ": " << Message(answer.status);
      if (absl::IsOutOfRange(answer.status)) notes_ << " (/reset begins a new conversation)";
    }
    notes_ << "\n";  // of a cancelled one behind the terminal's ^C
  }
  notes_ << std::flush;
}

}  // namespace penstock
