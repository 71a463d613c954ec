#include "frontend/chat_session.h"

#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

namespace penstock {
namespace {

// A model that answers with how many messages it was shown, and with the last of them.
class ChatSessionTest : public testing::Test {
 protected:
  ChatSession Make(std::optional<std::string> system = std::nullopt) {
    return {[this](const auto& messages, const auto& on_text) {
              asked_.push_back(messages);
              ChatSession::Answer answer = next_;
              if (answer.status.ok() && answer.text.empty()) {
                answer.text = absl::StrCat(messages.size(), ":", messages.back().content);
              }
              if (!answer.text.empty()) on_text(answer.text);
              return answer;
            },
            std::move(system), out_, notes_};
  }

  static std::string Roles(const std::vector<ChatMessage>& messages) {
    std::string roles;
    for (const ChatMessage& message : messages) roles += message.role[0];
    return roles;
  }

  std::vector<std::vector<ChatMessage>> asked_;
  ChatSession::Answer next_;
  std::ostringstream out_;
  std::ostringstream notes_;
};

TEST_F(ChatSessionTest, TheConversationGrows) {
  ChatSession session = Make();
  EXPECT_TRUE(session.Handle("Hello"));
  EXPECT_TRUE(session.Handle("  and again \r"));
  EXPECT_TRUE(session.Handle("   "));
  EXPECT_EQ(out_.str(), "1:Hello\n3:and again\n");
  EXPECT_EQ(Roles(session.messages()), "uaua");
  EXPECT_EQ(session.messages()[1].content, "1:Hello");
  EXPECT_EQ(session.failures(), 0);
}

TEST_F(ChatSessionTest, Commands) {
  ChatSession session = Make("Be brief.");
  EXPECT_TRUE(session.Handle("Hello"));
  EXPECT_EQ(Roles(asked_.back()), "su");
  EXPECT_TRUE(session.Handle("/reset"));
  EXPECT_EQ(Roles(session.messages()), "s");
  EXPECT_TRUE(session.Handle("/system  Talk like a pirate. "));
  ASSERT_EQ(Roles(session.messages()), "s");
  EXPECT_EQ(session.messages()[0].content, "Talk like a pirate.");
  EXPECT_TRUE(session.Handle("/system"));
  EXPECT_TRUE(session.messages().empty());
  EXPECT_TRUE(session.Handle("/help"));
  EXPECT_NE(notes_.str().find("/quit"), std::string::npos);
  EXPECT_TRUE(session.Handle("/rest"));
  EXPECT_NE(notes_.str().find("no command /rest"), std::string::npos);
  EXPECT_TRUE(session.Handle("//etc is a path"));
  EXPECT_EQ(asked_.back().back().content, "/etc is a path");
  EXPECT_FALSE(session.Handle("/quit"));
}

TEST_F(ChatSessionTest, AnErrorTakesTheMessageBack) {
  ChatSession session = Make();
  next_.status = absl::OutOfRangeError("the prompt has 9000 tokens");
  EXPECT_TRUE(session.Handle("a very long text"));
  EXPECT_TRUE(session.messages().empty());
  EXPECT_NE(notes_.str().find("OUT_OF_RANGE: the prompt has 9000 tokens (/reset begins"),
            std::string::npos);
  EXPECT_EQ(session.failures(), 1);
  next_.status = absl::OkStatus();
  EXPECT_TRUE(session.Handle("short"));
  EXPECT_EQ(out_.str(), "1:short\n");
}

TEST_F(ChatSessionTest, WhatACancelledAnswerSaidStays) {
  ChatSession session = Make();
  next_.status = absl::CancelledError("by the user");
  next_.text = "One, two";
  EXPECT_TRUE(session.Handle("Count"));
  EXPECT_EQ(Roles(session.messages()), "ua");
  EXPECT_EQ(session.messages()[1].content, "One, two");
  next_.text = "";
  EXPECT_TRUE(session.Handle("Go on"));
  EXPECT_EQ(Roles(session.messages()), "ua");
  EXPECT_EQ(session.failures(), 0);
  EXPECT_EQ(notes_.str(), "\n");
}

TEST_F(ChatSessionTest, SaysWhenAnAnswerIsCut) {
  ChatSession session = Make();
  next_.is_cut = true;
  EXPECT_TRUE(session.Handle("Count"));
  EXPECT_NE(notes_.str().find("--max-tokens"), std::string::npos);
}

TEST_F(ChatSessionTest, LinesThatAreNoTextAreLeftOut) {
  ChatSession session = Make();
  EXPECT_TRUE(session.Handle("a\xff"));
  EXPECT_TRUE(asked_.empty());
  EXPECT_EQ(session.failures(), 1);
  EXPECT_NE(notes_.str().find("UTF-8"), std::string::npos);
}

}  // namespace
}  // namespace penstock
