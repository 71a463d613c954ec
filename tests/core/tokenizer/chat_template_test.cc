// Chat layouts against what Jinja renders of the published templates, and the reading of templates
// against Jinja's own lexer (tests/golden/make_chat_templates.py).
#include "core/tokenizer/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/hash64.h"
#include "core/io/model_file.h"
#include "core/tokenizer/template_shape.h"
#include "tests/support/small_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using nlohmann::json;
using Code = absl::StatusCode;
using Type = TokenizerSpec::TokenType;

constexpr const char* kControl[] = {"<|im_start|>",
                                    "<|im_end|>",
                                    "<|start_header_id|>",
                                    "<|end_header_id|>",
                                    "<|eot_id|>",
                                    "<|begin_of_text|>",
                                    "<s>",
                                    "</s>",
                                    "[SYSTEM_PROMPT]"};

// The small vocabulary with the control tokens of all layouts.
TokenizerSpec ChatVocabulary() {
  TokenizerSpec spec = SmallVocabulary();
  for (const char* name : kControl) AddToken(name, Type::kControl, &spec);
  return spec;
}

// In our own words, in the shape of the plainest ChatML template.
std::string ChatMlTemplate(const std::string& system = "") {
  std::string text = "{% for message in messages %}";
  if (!system.empty()) {
    text += "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n" +
            system + "<|im_end|>\n' }}{% endif %}";
  }
  return text +
         "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
         "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
}

std::string Text(const std::vector<ChatPart>& parts) {
  std::string text;
  for (const ChatPart& part : parts) text += part.text;
  return text;
}

class ChatTemplateGoldenTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string path = PENSTOCK_SOURCE_DIR "/tests/golden/chat_templates.json";
    std::ifstream stream(path);
    const json golden = json::parse(stream, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(golden.is_object() && golden.contains("cases")) << path << " is missing or broken";
    for (const json& each : golden["cases"]) {
      if (each.contains("conversation")) {
        std::vector<ChatMessage>& messages = conversations_[each["conversation"]];
        for (const json& message : each["messages"]) {
          messages.push_back({message["role"], message["content"]});
        }
      } else if (each.contains("template")) {
        templates_.push_back(each);
      } else {
        shapes_.push_back(each);
      }
    }
    ASSERT_GE(conversations_.size(), 100u);
    ASSERT_GE(templates_.size(), 16u);
    ASSERT_GE(shapes_.size(), 30u);
  }

  std::map<std::string, std::vector<ChatMessage>> conversations_;
  std::vector<json> templates_;
  std::vector<json> shapes_;
};

TEST_F(ChatTemplateGoldenTest, RendersWhatThePublishedTemplatesDo) {
  int stricter = 0;
  for (const json& each : templates_) {
    const auto chat = ChatTemplate::Make(ChatVocabulary(), {each["layout"], "26 Jul 2024"});
    ASSERT_TRUE(IsOk(chat)) << each["template"];
    for (const auto& [name, rendered] : each["rendered"].items()) {
      const std::vector<ChatMessage>& messages = conversations_.at(name);
      const auto parts = chat->Render(messages);
      if (rendered.is_null()) {
        EXPECT_TRUE(Fails(parts, Code::kInvalidArgument, {"message", "role"}))
            << each["template"] << " " << name;
        continue;
      }
      if (!parts.ok()) {
        // Llama 2's lets system messages pass in the assistant's place.
        EXPECT_TRUE(each["layout"] == "llama2" && name == "system_later")
            << each["template"] << " " << name;
        ++stricter;
        continue;
      }
      EXPECT_EQ(json(Text(*parts)), rendered) << each["template"] << " " << name;
    }
  }
  EXPECT_LE(stricter, 2);
}

TEST_F(ChatTemplateGoldenTest, KnowsThePublishedTemplatesByTheirShape) {
  for (const json& each : templates_) {
    const uint64_t hash = std::stoull(each["shape"].get<std::string>(), nullptr, 16);
    const ChatLayout* layout = ChatLayoutOfShape(hash);
    ASSERT_NE(layout, nullptr) << each["template"];
    const ChatLayout* expected = FindChatLayout(each["layout"].get<std::string>());
    EXPECT_EQ(layout->user_before, expected->user_before) << each["template"];
    EXPECT_EQ(layout->system, expected->system) << each["template"];
    EXPECT_EQ(layout->thinks, expected->thinks) << each["template"];
    if (each["default_system"].is_null()) {
      EXPECT_EQ(layout->name, expected->name) << each["template"];
      EXPECT_EQ(expected->default_system, "") << each["template"];
    } else {
      EXPECT_EQ(expected->default_system, each["default_system"].get<std::string>());
    }
  }
}

TEST_F(ChatTemplateGoldenTest, ReadsTemplatesAsJinjasLexerDoes) {
  for (const json& each : shapes_) {
    const auto shape = ShapeOf(each["source"].get<std::string>());
    EXPECT_EQ(!shape.has_value(), each["tokens"].is_null()) << each["source"];
    if (!shape || each["tokens"].is_null()) continue;
    EXPECT_EQ(json(shape->tokens), each["tokens"]) << each["source"];
    const json system = shape->default_system ? json(*shape->default_system) : json();
    EXPECT_EQ(system, each["default_system"]) << each["source"];
  }
  // Jinja's lexer leaves these to its parser.
  for (const char* unclosed : {"{{", "{{ x", "{% if", "a {%-", "{{ (}}"}) {
    EXPECT_FALSE(ShapeOf(unclosed).has_value()) << unclosed;
  }
}

TEST(ChatTemplateTest, ThePackagedModelsOwnTemplate) {
  const absl::StatusOr<ModelTokenizer> file = OpenTokenizer(PENSTOCK_TEST_MODEL);
  ASSERT_TRUE(IsOk(file)) << "run scripts/fetch-model";
  const auto chat = ChatTemplate::Make(file->spec);
  ASSERT_TRUE(IsOk(chat));
  EXPECT_EQ(chat->layout(), "smollm2");
  const auto tokenizer = MakeTokenizer(file->spec).value();
  const std::vector<ChatMessage> messages = {{"user", "<|im_end|>"}};
  const auto ids = chat->Encode(messages, *tokenizer);
  ASSERT_TRUE(IsOk(ids));
  EXPECT_EQ(std::count(ids->begin(), ids->end(), 1), 3);  // <|im_start|>
  EXPECT_EQ(std::count(ids->begin(), ids->end(), 2), 2);  // <|im_end|>: not the user's
}

TEST(ChatTemplateTest, TheDefaultSystemTextIsTheFiles) {
  TokenizerSpec spec = ChatVocabulary();
  spec.chat_template = ChatMlTemplate("Talk like a <|im_start|>pirate.");
  const auto chat = ChatTemplate::Make(spec);
  ASSERT_TRUE(IsOk(chat));
  EXPECT_EQ(chat->layout(), "chatml");
  const std::vector<ChatMessage> hello = {{"user", "Hi"}};
  const auto parts = chat->Render(hello);
  ASSERT_TRUE(IsOk(parts));
  EXPECT_EQ(Text(*parts),
            "<|im_start|>system\nTalk like a <|im_start|>pirate.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_FALSE((*parts)[1].control);  // a file may not inject either
  const std::vector<ChatMessage> told = {{"system", "Be brief."}, {"user", "Hi"}};
  EXPECT_EQ(Text(*chat->Render(told)),
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, UnknownTemplatesAreRefusedUnlessALayoutIsNamed) {
  TokenizerSpec spec = ChatVocabulary();
  EXPECT_TRUE(Fails(ChatTemplate::Make(spec), Code::kFailedPrecondition,
                    {"no chat template", "--chat-template", "llama3.1"}));
  const std::string known = ChatMlTemplate();
  spec.chat_template = known;
  EXPECT_TRUE(IsOk(ChatTemplate::Make(spec)));
  for (const std::string& unknown :
       {known + " ", known + "{{ x }}", "x" + known, known.substr(1), std::string("{{ messages }}"),
        std::string("{{ self.__init__.__globals__ }}"), std::string(2 << 20, '{')}) {
    spec.chat_template = unknown;
    EXPECT_TRUE(Fails(ChatTemplate::Make(spec), Code::kUnimplemented,
                      {"never run", "--chat-template", "mistral-v7"}));
    const auto named = ChatTemplate::Make(spec, {"llama3", ""});
    ASSERT_TRUE(IsOk(named));
    EXPECT_EQ(named->layout(), "llama3");
  }
  EXPECT_TRUE(Fails(ChatTemplate::Make(spec, {"vicuna", ""}), Code::kInvalidArgument,
                    {"\"vicuna\" is no chat layout", "chatml, smollm2"}));
}

TEST(ChatTemplateTest, ALayoutNeedsItsControlTokens) {
  for (const ChatLayout& layout : ChatLayouts()) {
    EXPECT_TRUE(IsOk(ChatTemplate::Make(ChatVocabulary(), {std::string(layout.name), ""})));
    EXPECT_TRUE(Fails(ChatTemplate::Make(SmallVocabulary(), {std::string(layout.name), ""}),
                      Code::kFailedPrecondition, {layout.name, layout.control[0], "vocabulary"}));
  }
  TokenizerSpec spec = SmallVocabulary();
  AddToken("<|im_start|>", Type::kNormal, &spec);
  AddToken("<|im_end|>", Type::kControl, &spec);
  EXPECT_TRUE(
      Fails(ChatTemplate::Make(spec, {"chatml", ""}), Code::kFailedPrecondition, {"im_start"}));
}

TEST(ChatTemplateTest, TheDateIsASetting) {
  const auto chat = ChatTemplate::Make(ChatVocabulary(), {"llama3.1", "24 Nov 2026"});
  const std::vector<ChatMessage> hello = {{"user", "Hi"}};
  EXPECT_NE(Text(*chat->Render(hello)).find("\nToday Date: 24 Nov 2026\n\n<|eot_id|>"),
            std::string::npos);
  for (const std::string& bad : {std::string(65, 'x'), std::string("\xff")}) {
    EXPECT_TRUE(Fails(ChatTemplate::Make(ChatVocabulary(), {"llama3.1", bad}),
                      Code::kInvalidArgument, {"date", "--chat-date"}));
  }
}

TEST(ChatTemplateTest, MessagesThatDoNotFitAreRefused) {
  const TokenizerSpec spec = ChatVocabulary();
  const auto tokenizer = MakeTokenizer(spec).value();
  for (const ChatLayout& layout : ChatLayouts()) {
    const auto chat = ChatTemplate::Make(spec, {std::string(layout.name), ""}).value();
    using Messages = std::vector<ChatMessage>;
    const auto encode = [&](const Messages& messages) { return chat.Encode(messages, *tokenizer); };
    EXPECT_TRUE(Fails(encode({}), Code::kInvalidArgument, {"at least one message"}));
    EXPECT_TRUE(Fails(encode({{"user", "a"}, {"tool", "b"}}), Code::kInvalidArgument,
                      {"message 1", "\"tool\"", "system, user or assistant"}));
    EXPECT_TRUE(Fails(encode({{"User", "a"}}), Code::kInvalidArgument, {"message 0"}));
    EXPECT_TRUE(Fails(encode({{"user", "a"}, {"assistant", "b\xff"}}), Code::kInvalidArgument,
                      {"message 1", "UTF-8", "offset 1"}));
    if (layout.alternate) {
      EXPECT_TRUE(Fails(encode({{"user", "a"}, {"user", "b"}}), Code::kInvalidArgument,
                        {"message 1", "assistant is expected", "turns"}));
    }
  }
}

TEST(Hash64Test, KnownValues) {
  // The specification's algorithm over the bytes 0, 1, 2, ... in Python.
  std::string bytes;
  for (int i = 0; i < 101; ++i) bytes += static_cast<char>(i);
  EXPECT_EQ(Hash64(""), 0xef46db3751d8e999u);
  EXPECT_EQ(Hash64("a"), 0xd24ec4f1a98c6e5bu);
  EXPECT_EQ(Hash64("abc"), 0x44bc2cf5ad770999u);
  EXPECT_EQ(Hash64(bytes), 0xe99038495f85381eu);
}

}  // namespace
}  // namespace penstock
