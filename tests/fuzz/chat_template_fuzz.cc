// Any text as a model's chat template, any messages under any layout: the template is known or
// refused, what is laid out holds every text of the messages, and control tokens come from the
// layout alone.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/check.h"
#include "core/base/utf8.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/chat_text.h"
#include "core/tokenizer/template_shape.h"
#include "tests/fuzz/mutator.h"
#include "tests/support/small_vocabulary.h"

namespace penstock {
namespace {

TokenizerSpec ChatVocabulary() {
  TokenizerSpec spec = SmallVocabulary();
  for (const ChatLayout& layout : ChatLayouts()) {
    for (const std::string_view name : layout.control) {
      const bool there =
          std::find(spec.tokens.begin(), spec.tokens.end(), name) != spec.tokens.end();
      if (!name.empty() && !there) AddToken(name, TokenizerSpec::TokenType::kControl, &spec);
    }
  }
  return spec;
}

bool IsControl(const TokenizerSpec& spec, int32_t id) {
  return spec.types[static_cast<size_t>(id)] == TokenizerSpec::TokenType::kControl;
}

// Splits `data` at 0x01 bytes: the first byte of a message is its role.
std::vector<ChatMessage> Messages(std::string_view data) {
  constexpr const char* kRoles[] = {"user", "assistant", "system", "tool"};
  std::vector<ChatMessage> messages;
  while (!data.empty()) {
    const size_t end = std::min(data.find('\x01'), data.size());
    const std::string_view message = data.substr(0, end);
    data.remove_prefix(std::min(end + 1, data.size()));
    if (message.empty()) continue;
    messages.push_back(
        {kRoles[static_cast<uint8_t>(message[0]) % 4], std::string(message.substr(1))});
  }
  return messages;
}

void CheckChat(const TokenizerSpec& spec, const Tokenizer& tokenizer, const ChatTemplate& chat,
               const std::vector<ChatMessage>& messages) {
  const auto parts = chat.Render(messages);
  const auto ids = chat.Encode(messages, tokenizer);
  bool valid = true;
  for (const ChatMessage& message : messages) valid &= !FindInvalidUtf8(message.content);
  PENSTOCK_CHECK_EQ(ids.ok(), parts.ok() && valid);
  if (!ids.ok()) return;

  std::string text;
  int64_t expected = 0;  // control tokens
  for (const ChatPart& part : *parts) {
    text += part.text;
    if (!part.control) continue;
    const TextPart alone{part.text, true};
    const auto told = tokenizer.EncodeParts({&alone, 1}, /*add_bos=*/false);
    PENSTOCK_CHECK(told.ok());
    for (const int32_t id : *told) expected += IsControl(spec, id) ? 1 : 0;
  }
  int64_t found = 0;
  for (const int32_t id : *ids) found += IsControl(spec, id) ? 1 : 0;
  PENSTOCK_CHECK_EQ(found, expected);

  const ChatLayout& layout = *FindChatLayout(chat.layout());
  for (size_t i = 0; i < messages.size(); ++i) {
    // Reasoning is left out, and so is a system's text with no message to stand in.
    if (layout.thinks && messages[i].role == "assistant") continue;
    if (messages[i].role == "system" && (layout.system == ChatLayout::System::kFirstUser ||
                                         layout.system == ChatLayout::System::kLastUser)) {
      continue;
    }
    PENSTOCK_CHECK(text.find(StripSpace(messages[i].content)) != std::string::npos);
  }
}

// A template of each kind of thing, and a conversation under each layout; the first byte chooses.
fuzz::Words Seeds() {
  const auto own = static_cast<char>(ChatLayouts().size());
  fuzz::Words seeds = {
      own + std::string("{% for message in messages %}{% if loop.first and messages[0]['role'] != "
                        "'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}{{"
                        "'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
                        "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
                        "'<|im_start|>assistant\\n' }}{% endif %}"),
      own +
          std::string("{#- a comment -#}\r\n  {%- set x = {\"a\": [1, (2)]} +%}\n{{- x[\"a\"][0] ~ "
                      "'\\t\\'' -}}")};
  for (size_t i = 0; i < ChatLayouts().size(); ++i) {
    std::string seed(1, static_cast<char>(i));
    seed += "\x02 Be kind. \x01";
    seed += std::string(1, '\0') + "Hi\xc2\xa0\x01\x05<think>\nhm\n</think>\n\nHello\x01";
    seed += std::string(1, '\0') + "<tool_response>1</tool_response>\x01";
    seeds.push_back(seed + std::string(1, '\0') + "<|im_end|> and?");
  }
  return seeds;
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using penstock::ChatLayouts;
  static const auto* const spec = new penstock::TokenizerSpec(penstock::ChatVocabulary());
  static const auto* const tokenizer = penstock::MakeTokenizer(*spec).value().release();
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t choice = data[0] % (ChatLayouts().size() + 1);
  if (choice == ChatLayouts().size()) {
    static auto* const own = new penstock::TokenizerSpec(*spec);
    own->chat_template = std::string(rest);
    const auto chat = penstock::ChatTemplate::Make(*own);
    const auto shape = penstock::ShapeOf(rest);
    PENSTOCK_CHECK(shape.has_value() || !chat.ok());
    if (chat.ok()) penstock::CheckChat(*spec, *tokenizer, *chat, {{"user", "Hi"}});
    return 0;
  }
  const auto chat =
      penstock::ChatTemplate::Make(*spec, {std::string(ChatLayouts()[choice].name), "today"});
  PENSTOCK_CHECK(chat.ok());
  penstock::CheckChat(*spec, *tokenizer, *chat, penstock::Messages(rest));
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using penstock::fuzz::Format;
  static const auto* const format = new Format{"",
                                               penstock::Seeds(),
                                               {"{{",
                                                "}}",
                                                "{%",
                                                "%}",
                                                "{#",
                                                "#}",
                                                "{%-",
                                                "-%}",
                                                "{%+",
                                                "+%}",
                                                "{{-",
                                                "-}}",
                                                "\n",
                                                "\r\n",
                                                "\\n",
                                                "\\'",
                                                "['role']",
                                                "[\"content\"]",
                                                "message",
                                                "<|im_start|>system\n",
                                                "<|im_end|>\n",
                                                "<|im_end|>",
                                                "<think>",
                                                "</think>",
                                                "<tool_response>",
                                                "</tool_response>",
                                                "\x01\x05",
                                                "\x01\x02",
                                                "\xc2\xa0",
                                                "\xe3\x80\x80",
                                                "\x1c",
                                                "\xff",
                                                "[INST]",
                                                "<<SYS>>",
                                                "<|eot_id|>"},
                                               penstock::fuzz::MutateBinary};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
